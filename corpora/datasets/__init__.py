"""Text and questions from outside: JSONL, the Hugging Face Hub, Wikipedia dumps."""
