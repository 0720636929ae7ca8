"""Files, locks, downloads and errors: what the machine gives, nothing of few-shot learning."""
