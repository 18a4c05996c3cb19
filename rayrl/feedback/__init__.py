"""Feedback of language models: questions, the store of their labels, the judges that answer, the role that keeps all of it going."""
