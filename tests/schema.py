"""MindSpore's checkpoint schema as messages of Google's protobuf: the reference decoder."""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_MESSAGES = {
    "Checkpoint": [("value", 1, _Field.LABEL_REPEATED, "Value")],
    "Value": [
        ("tag", 1, _Field.LABEL_REQUIRED, _Field.TYPE_STRING),
        ("tensor", 2, _Field.LABEL_OPTIONAL, "TensorProto"),
        ("maptensor", 3, _Field.LABEL_OPTIONAL, "MapTensorProto"),
    ],
    "TensorProto": [
        ("dims", 1, _Field.LABEL_REPEATED, _Field.TYPE_INT64),
        ("tensor_type", 2, _Field.LABEL_REQUIRED, _Field.TYPE_STRING),
        ("tensor_content", 3, _Field.LABEL_REQUIRED, _Field.TYPE_BYTES),
    ],
    "MapTensorProto": [("tensor", 1, _Field.LABEL_REPEATED, "TensorProto")],
}


def _checkpoint_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="checkpoint.proto", syntax="proto2")
    for message_name, members in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        if message_name == "Value":
            message.oneof_decl.add(name="value")
        for name, number, label, kind in members:
            field = message.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                field.type = _Field.TYPE_MESSAGE
                field.type_name = "." + kind
            else:
                field.type = kind
            if message_name == "Value" and number > 1:
                field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Checkpoint"))


Checkpoint = _checkpoint_class()
