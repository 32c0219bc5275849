#!/bin/sh
# Generates the stubs beside the .proto files, so that `equipoise.v1` is both the wire
# package and what a Python caller imports. The wire package of `equipoise.oip` is `inference`. --check: only say whether the committed ones are fresh.
set -eu
cd "$(dirname "$0")"
out=.
if [ "${1:-}" = "--check" ]; then
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
fi
python -m grpc_tools.protoc --proto_path=. \
    --python_out="$out" --grpc_python_out="$out" --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" \
    equipoise/v1/*.proto equipoise/oip/*.proto
[ "$out" = . ] && exit 0
for fresh in "$out"/equipoise/*/*_pb2*; do
    own=${fresh#"$out"/}
    if ! cmp -s "$fresh" "$own"; then
        echo "stale stub: proto/$own: run make stubs" >&2
        exit 1
    fi
done
