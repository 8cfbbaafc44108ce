"""Parts of tools/model_server.py and tools/serve_check.py: a SavedModel behind the APIs of TensorFlow Serving."""
