"""Prints the contract that Triton's client was made from, as JSON: fields, enums and methods."""

import json
import sys

from google.protobuf import descriptor_pb2
from tritonclient.grpc import model_config_pb2, service_pb2


def described(message: descriptor_pb2.DescriptorProto, prefix: str) -> dict:
    name = f"{prefix}.{message.name}"
    own = {
        name: {
            field.name: [field.number, field.type, field.label, field.type_name]
            for field in message.field
        }
    }
    for nested in message.nested_type:
        own |= described(nested, name)
    return own


def enums_of(holder, prefix: str) -> dict:
    own = {
        f"{prefix}.{enum.name}": {value.name: value.number for value in enum.value}
        for enum in holder.enum_type
    }
    for message in getattr(holder, "message_type", None) or getattr(holder, "nested_type", ()):
        own |= enums_of(message, f"{prefix}.{message.name}")
    return own


contract: dict = {"messages": {}, "enums": {}, "methods": {}}
for module in (service_pb2, model_config_pb2):
    file = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    for message in file.message_type:
        contract["messages"] |= described(message, f".{file.package}")
    contract["enums"] |= enums_of(file, f".{file.package}")
    for service in file.service:
        contract["methods"] |= {
            f"{file.package}.{service.name}/{method.name}": [
                method.input_type,
                method.output_type,
                method.client_streaming,
                method.server_streaming,
            ]
            for method in service.method
        }
json.dump(contract, sys.stdout)
