"""The release bundle: one folder, verified byte for byte, without user data."""

from server.bundle.contents import Bundle, BundleParts, GroupTable, ItemTable, Warmup
from server.bundle.inputs import Searcher, feed_maker, ports_for, ports_of, retriever_for, searcher
from server.bundle.load import load_bundle, read_files, read_manifest
from server.bundle.manifest import DataInfo, Manifest, MeasuredBatch, Quantised, Retrieval
from server.bundle.write import check_target, write_bundle

__all__ = [
    "Bundle",
    "BundleParts",
    "DataInfo",
    "GroupTable",
    "ItemTable",
    "Manifest",
    "MeasuredBatch",
    "Quantised",
    "Retrieval",
    "Searcher",
    "Warmup",
    "check_target",
    "feed_maker",
    "load_bundle",
    "ports_for",
    "ports_of",
    "read_files",
    "read_manifest",
    "retriever_for",
    "searcher",
    "write_bundle",
]
