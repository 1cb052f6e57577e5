"""What a tier tells of its models: metadata, Triton's configuration, and which are ready."""

from __future__ import annotations

from typing import Any

from services.images import image_shape
from services.limiter import Limiter
from services.open_inference import messages
from services.open_inference.replies import OUTPUTS, shapes
from services.open_inference.tensors import IMAGE
from services.serving import Models, Served

PLATFORM, BACKEND = "onnx_onnxv1", "offramp"


def metadata(models: Models, served: Served) -> Any:
    """ModelMetadataResponse: -1 stands for the number of samples."""
    manifest, rows = served.manifest, shapes(len(served.manifest.labels))
    tensor = messages.ModelMetadataResponse.TensorMetadata
    inputs = [tensor(name=manifest.input.name, datatype="FP32", shape=[-1, *manifest.input.shape])]
    if (pixels := image_shape(manifest.input)) is not None:
        inputs.append(tensor(name=IMAGE, datatype="UINT8", shape=[-1, *pixels]))
    return messages.ModelMetadataResponse(
        name=manifest.name,
        versions=models.versions(manifest.name),
        platform=PLATFORM,
        inputs=inputs,
        outputs=[tensor(name=name, datatype=kind, shape=[-1, *rows[name]]) for name, kind in OUTPUTS.items()],
    )


def configuration(served: Served, max_batch: int) -> Any:
    """ModelConfigResponse: as much as a load generator needs. Its dimensions leave out the number of samples."""
    manifest = served.manifest
    config = messages.ModelConfig(
        name=manifest.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=min(max_batch, manifest.input.max_batch or max_batch),
        default_model_filename=manifest.graph,
        model_transaction_policy=messages.ModelTransactionPolicy(decoupled=True),
    )
    config.input.add(name=manifest.input.name, data_type="TYPE_FP32", dims=manifest.input.shape)
    if (pixels := image_shape(manifest.input)) is not None:
        config.input.add(name=IMAGE, data_type="TYPE_UINT8", format="FORMAT_NHWC", dims=pixels, optional=True)
    for name, dims in shapes(len(manifest.labels)).items():
        config.output.add(name=name, data_type=f"TYPE_{OUTPUTS[name]}", dims=dims or [1])
    return messages.ModelConfigResponse(config=config)


def index(models: Models, repository: str, ready: bool) -> Any:
    """RepositoryIndexResponse: every model, or those that are ready. The repository has no name."""
    reply = messages.RepositoryIndexResponse()
    for served in models if not repository else ():
        state, reason = _state(served.limiter)
        if state == "READY" or not ready:
            reply.models.add(name=served.manifest.name, version=served.manifest.version, state=state, reason=reason)
    return reply


def _state(limiter: Limiter) -> tuple[str, str]:
    if limiter.ready:
        return "READY", ""
    if limiter.ending:
        return "UNAVAILABLE", "the tier is shutting down"
    return "LOADING", "warming up"
