"""A stand-in for a judge: a small HTTP server that answers like a language model would, without one.

    python -m tests.standin --port 9001

It speaks the OpenAI chat API on the loopback interface, sees the text of a prompt and nothing else, and answers in prose after a
delay, with set rates of everything that real judges get wrong. Its opinions are frozen keyword rules (`rules.py`) that never mention
what a task calls success. Numbers measured with it say how the system behaves, not how good a language model's feedback is.
"""
