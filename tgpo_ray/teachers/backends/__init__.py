"""The models behind a teacher: vLLM, transformers, or a server elsewhere."""
