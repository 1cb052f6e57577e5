"""The public door of every tier: the Open Inference Protocol v2 over gRPC."""
