"""The backends of a teacher: vLLM, transformers, or a server elsewhere."""
