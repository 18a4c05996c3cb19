"""A process that owns a label store and is killed: prints every label as soon as a reader would see it."""

import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from scripted_judge import ScriptedJudge, messages

from rayrl.config.schema import FeedbackConfig
from rayrl.feedback import templates
from rayrl.feedback.annotator import Annotator
from rayrl.feedback.store import LabelStore


def main(path: str, start: int) -> None:
    config = FeedbackConfig(judge="http", template="nethack_class", concurrency=8)
    judge = ScriptedJudge(lambda prompt: f"<label>{'FOO' if hash_of(prompt) % 2 else 'BAR'}</label>", delay=lambda prompt: 0.002)
    annotator = Annotator(config, LabelStore(Path(path), config, templates.load(config.template), "scripted"), judge)
    threading.Thread(target=annotator.run, daemon=True).start()
    told, cursor = 0, 0
    while True:
        seen = messages(20, start=start + 20 * told)
        annotator.sight(seen, dict.fromkeys(seen, 1))
        time.sleep(0.002)  # else the annotator's own thread hardly gets a turn
        told += 1
        cursor, labels = annotator.labels_since(cursor)
        for label in labels:
            print(label.key, label.label, flush=True)
        asked, judge.prompts = judge.prompts, []
        for prompt in asked:
            print("asked", hash_of(prompt), flush=True)


def hash_of(prompt: str) -> int:
    import xxhash

    return xxhash.xxh3_64_intdigest(prompt.encode())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
