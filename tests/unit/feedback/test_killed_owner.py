import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from rayrl.annotations import QuestionState
from rayrl.feedback.database import Database

OWNER = Path(__file__).parent / "owner.py"


def test_a_label_that_anybody_saw_survives_kill_9_and_is_not_asked_again(tmp_path):
    """Six owners of one store, each killed at a random moment. What was in flight then is all that is asked twice."""
    path, seen, asked = tmp_path / "f.sqlite", {}, Counter()
    rng = random.Random(0)
    for life in range(6):
        process = subprocess.Popen([sys.executable, OWNER, path, str(life % 2 * 100)], stdout=subprocess.PIPE, text=True)
        first = [process.stdout.readline() for _ in range(60)]  # it is at work
        time.sleep(rng.uniform(0.05, 0.4))
        process.kill()
        for line in [*first, *process.stdout.read().splitlines()]:
            parts = line.split()
            if len(parts) == 2 and parts[0] == "asked":
                asked[parts[1]] += 1
            elif len(parts) == 2 and len(parts[0]) == 32 and parts[1] in ("0.0", "1.0"):
                assert seen.setdefault(parts[0], float(parts[1])) == float(parts[1])
        process.wait(10)
    database = Database(path, read_only=True)
    kept = {a.key: a.label for a in database.all_annotations() if a.state is QuestionState.LABELLED}
    assert seen and seen.items() <= kept.items()
    assert sum(count - 1 for count in asked.values()) <= 6 * 8, "at most what six owners had in flight"
    ids = [a.id for a in database.all_annotations()]
    assert ids == list(range(1, len(ids) + 1)), "the log has no gap and no double"
    database.close()
