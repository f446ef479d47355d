"""aprnb: LLM pretraining and fine-tuning from scratch, every op judged by a NumPy twin."""

__version__ = "0.1.0"
