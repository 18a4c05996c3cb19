"""Runs programs that nobody trusts: code, SQL and tool calls that a model wrote.

    ended = run(Program(["python3", "answer.py"], files={"answer.py": code}), Limits(time_s=2))

Each program is a process of its own with limits on time, memory, processes, files and output, an environment without the
user's variables, and as little of the machine as the system lets us take away (`isolation.py` knows three levels). Whatever it
does comes back as an `Ended`; no process of it outlives the call, not even when the caller is killed.
Standard library only, so that processes that must start quickly can use it.
"""
