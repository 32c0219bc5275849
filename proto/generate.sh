#!/bin/sh
# Generates the stubs beside the .proto files, so that `equipoise.v1` is both the wire
# package and what a Python caller imports. The wire package of `equipoise.oip` is `inference`.
# Also `equipoise/v1/descriptors.binpb`, what a gateway needs to read and write these messages as
# JSON: all of `equipoise.v1`, and the details of errors. --check: only say whether the committed
# ones are fresh.
set -eu
cd "$(dirname "$0")"
out=.
if [ "${1:-}" = "--check" ]; then
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
    mkdir -p "$out/equipoise/v1"
fi
python -m grpc_tools.protoc --proto_path=. \
    --python_out="$out" --grpc_python_out="$out" --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" \
    equipoise/v1/*.proto equipoise/oip/*.proto
common=$(python -c 'import pathlib, google.rpc.status_pb2 as rpc; print(pathlib.Path(rpc.__file__).parents[2])')
python -m grpc_tools.protoc --proto_path=. --proto_path="$common" --include_imports \
    --descriptor_set_out="$out/equipoise/v1/descriptors.binpb" \
    equipoise/v1/*.proto google/rpc/status.proto google/rpc/error_details.proto
[ "$out" = . ] && exit 0
for fresh in "$out"/equipoise/*/*_pb2* "$out"/equipoise/v1/descriptors.binpb; do
    own=${fresh#"$out"/}
    if ! cmp -s "$fresh" "$own"; then
        echo "stale: proto/$own: run make stubs" >&2
        exit 1
    fi
done
