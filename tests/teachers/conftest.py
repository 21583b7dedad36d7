import os

os.environ["HF_HUB_OFFLINE"] = "1"  # no test fetches a model; read when huggingface_hub is first imported
