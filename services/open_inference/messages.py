"""The Open Inference Protocol's messages, in a descriptor pool of their own.

A second copy of these messages in the default pool crashes any process that also imports another client of
the protocol, whichever comes second; in a private pool they never meet.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"

FILE: bytes = (
    descriptor_pb2.FileDescriptorSet.FromString((resources.files("services.pb") / "inference.binpb").read_bytes())
    .file[0]
    .SerializeToString()
)

_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(FILE)


def message(name: str) -> Any:
    """The class of message `inference.<name>`."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"inference.{name}"))


InferBatchStatistics = message("InferBatchStatistics")
InferStatistics = message("InferStatistics")
ModelConfig = message("ModelConfig")
ModelConfigRequest = message("ModelConfigRequest")
ModelConfigResponse = message("ModelConfigResponse")
ModelInferRequest = message("ModelInferRequest")
ModelInferResponse = message("ModelInferResponse")
ModelMetadataRequest = message("ModelMetadataRequest")
ModelMetadataResponse = message("ModelMetadataResponse")
ModelReadyRequest = message("ModelReadyRequest")
ModelReadyResponse = message("ModelReadyResponse")
ModelStatistics = message("ModelStatistics")
ModelStatisticsRequest = message("ModelStatisticsRequest")
ModelStatisticsResponse = message("ModelStatisticsResponse")
ModelStreamInferResponse = message("ModelStreamInferResponse")
ModelTransactionPolicy = message("ModelTransactionPolicy")
RepositoryIndexRequest = message("RepositoryIndexRequest")
RepositoryIndexResponse = message("RepositoryIndexResponse")
ServerLiveRequest = message("ServerLiveRequest")
ServerLiveResponse = message("ServerLiveResponse")
ServerMetadataRequest = message("ServerMetadataRequest")
ServerMetadataResponse = message("ServerMetadataResponse")
ServerReadyRequest = message("ServerReadyRequest")
ServerReadyResponse = message("ServerReadyResponse")
StatisticDuration = message("StatisticDuration")
