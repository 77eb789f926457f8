# SPDX-License-Identifier: Apache-2.0
"""Bytes that no client of ours would send."""

import random
import socket

import ablate
import grpc
import pytest
from ablate import _rpc
from google.protobuf import message_factory

METHODS = [
    (f"/{service.full_name}/{method.name}", method)
    for file in _rpc._FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
# A request that damages nothing: what a mutation of it says is refused, or answered.
SAFE_CODES = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.OUT_OF_RANGE,
}


def send(channel, path, method, payload):
    """Sends bytes; returns the call's code."""
    kind = ("stream" if method.client_streaming else "unary") + "_"
    kind += "stream" if method.server_streaming else "unary"
    call = getattr(channel, kind)(path)
    request = iter([payload]) if method.client_streaming else payload
    try:
        if method.server_streaming:
            for _ in call(request, timeout=30):
                pass
        else:
            call(request, timeout=30)
        return grpc.StatusCode.OK
    except grpc.RpcError as error:
        return error.code()


@pytest.mark.parametrize(("path", "method"), METHODS, ids=[path for path, _ in METHODS])
def test_hostile_bytes_to_every_method(channel, daemon, client, path, method):
    rng = random.Random(path)
    filled = fill(message_factory.GetMessageClass(method.input_type)(), rng).SerializeToString()
    payloads = [b"\xff", b"\x0a", b"\x0a\xff\xff\xff\xff\x0f", b"\x08" * 20, b"\x0b" * 5000]
    payloads += [filled[:length] for length in range(0, len(filled), max(1, len(filled) // 12))]
    payloads += [rng.randbytes(rng.randrange(1, 200)) for _ in range(20)]
    for _ in range(20):
        damaged = bytearray(filled or b"\x0a\x00")
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        payloads.append(bytes(damaged))
    for payload in payloads:
        code = send(channel, path, method, payload)
        assert code in SAFE_CODES, f"{code} for {payload.hex()}"
    code = send(channel, path, method, b"\x0a\xff")
    assert code is grpc.StatusCode.INVALID_ARGUMENT, f"{code} for a message that is cut short"
    assert client.server_info().protocol == "ablate.v1"


def fill(message, rng, depth=0):
    """Something in every field."""
    for field in message.DESCRIPTOR.fields:
        value = None
        if field.message_type is not None:
            if depth < 4:
                child = message_factory.GetMessageClass(field.message_type)()
                fill(child, rng, depth + 1)
                value = child
        elif field.cpp_type in (field.CPPTYPE_STRING,):
            value = b"\x00\x01" if field.type == field.TYPE_BYTES else "no-such-thing"
        elif field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
            value = rng.choice([0.5, float("nan"), float("inf"), -1e30])
        elif field.cpp_type == field.CPPTYPE_BOOL:
            value = True
        elif field.enum_type is not None:
            value = rng.choice(field.enum_type.values).number
        elif field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64):
            value = 3
        else:
            value = rng.choice([1, 3, -1, 2**31 - 1, -(2**31)])
        if value is None:
            continue
        repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
        if repeated:
            getattr(message, field.name).append(value)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(value)
        else:
            setattr(message, field.name, value)
    return message


def test_a_message_over_the_limit_is_refused_with_the_code_for_it(channel, client):
    limit = client.server_info().limits.message_bytes
    path, method = next(m for m in METHODS if m[0].endswith("UploadDataset"))
    assert send(channel, path, method, bytes(limit + 1)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert client.server_info().protocol == "ablate.v1"


def test_a_small_message_of_many_parts_cannot_take_much_memory(channel, client):
    # Each empty edge is two bytes on the wire and far more unpacked.
    many = b"\x12" + varint(4_000_000) + b"\x0a\x00" * 2_000_000
    path, method = next(m for m in METHODS if m[0].endswith("SetPatchMask"))
    code = send(channel, path, method, b"\x0a\x01g" + many)
    assert code in SAFE_CODES - {grpc.StatusCode.OK, grpc.StatusCode.UNIMPLEMENTED}
    assert client.server_info().protocol == "ablate.v1"


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


@pytest.mark.parametrize(
    "text",
    [b"\xff\xfe", b"tiny\x00-ioi", b"\xed\xa0\x80", b"\xc0\x80"],
    ids=["not UTF-8", "a NUL inside", "a surrogate", "an overlong NUL"],
)
def test_text_that_is_not_text_is_refused(channel, client, text):
    path, method = next(m for m in METHODS if m[0].endswith("/LoadModel"))
    payload = b"\x0a" + bytes([len(text)]) + text
    assert send(channel, path, method, payload) is grpc.StatusCode.INVALID_ARGUMENT


def test_an_unknown_method_and_service_are_unimplemented(channel):
    _, unary = METHODS[0]
    for path in ("/ablate.v1.ModelService/NoSuch", "/no.Such/Method"):
        assert send(channel, path, unary, b"") is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("port", ["grpc", "http"])
def test_what_is_not_the_protocol_at_all_is_shrugged_off(daemon, client, port):
    host, _, number = getattr(daemon, port).rpartition(":")
    rng = random.Random(port)
    http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for payload in (b"GET / HTTP/1.1\r\n\r\n", rng.randbytes(4096), b"", http2 + rng.randbytes(100)):
        with socket.create_connection((host, int(number)), timeout=10) as raw:
            raw.sendall(payload)
            raw.shutdown(socket.SHUT_WR)
    assert client.server_info().protocol == "ablate.v1"


def test_an_upload_that_breaks_off_leaves_nothing(channel, client, daemon):
    from ablate.v1 import model_pb2

    before = client.server_info()
    call = channel.stream_unary(
        "/ablate.v1.ModelService/UploadModel",
        request_serializer=model_pb2.UploadModelRequest.SerializeToString,
        response_deserializer=model_pb2.UploadModelResponse.FromString,
    )

    def parts():
        yield model_pb2.UploadModelRequest(options=model_pb2.UploadModelOptions(name="half"))
        chunk = model_pb2.FileChunk(file_name="model.safetensors", data=bytes(100_000))
        yield model_pb2.UploadModelRequest(chunk=chunk)
        raise RuntimeError("the client breaks")

    with pytest.raises(grpc.RpcError):
        call(parts(), timeout=30)
    after = client.server_info()
    assert (after.model_count, after.resident_bytes.weights) == (before.model_count, before.resident_bytes.weights)
    with pytest.raises(ablate.NotFoundError):
        client._call("GetModel", model_pb2.GetModelRequest(model_id="half"))
