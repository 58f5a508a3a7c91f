//! Pose from pictures: BlazePose through ONNX Runtime.
