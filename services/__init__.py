"""What every tier is: the shared runtime. No file in here knows which tier it runs in."""

import os

# onnxruntime's Linux builds report to their maker unless this is set before they load. Nothing here calls home,
# whatever it was set to before.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# gRPC's own notices go past the log, as lines that are no JSON: one for each stranger who fails to shake hands.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

# Serving does no linear algebra: numpy's threads for it would only cost each start 0.2 s of processor, on four cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
