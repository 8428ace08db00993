"""TensorRT engines: what runs them, and what their manifests say."""
