"""The replay buffer: a pure core (ledger, scoring desk, ready set) and a thread-safe service around it. Payloads are opaque references."""
