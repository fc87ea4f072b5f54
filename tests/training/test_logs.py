"""What a resumed run keeps of log.jsonl."""

import json

from config import TrainConfig
from utils.training.logs import RunLog


def test_run_log_keeps_the_lines_of_earlier_steps_only(tmp_path):
    lines = [json.dumps({"epoch": epoch, "step": 10 * epoch}) for epoch in (1, 2, 3)]
    (tmp_path / "log.jsonl").write_text("\n".join([lines[0], "", "a note", "[]", *lines[1:], '{"epoch": 4, "st']))
    log = RunLog(tmp_path, 20, TrainConfig(output_dir=tmp_path))
    assert log.lines == lines[:2]
    log.close()
