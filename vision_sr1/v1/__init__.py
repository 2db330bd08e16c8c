"""Generated from proto/vision_sr1/v1 by `make protos`."""
