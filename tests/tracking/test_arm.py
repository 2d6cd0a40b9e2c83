"""Arms of a stage share a run and keep their names apart."""

from medae.tracking.base import Arm, NullTracker


class Kept(NullTracker):
    run_id = "r"

    def __init__(self):
        self.rows = []

    def metrics(self, values, step):
        self.rows.append((dict(values), step))

    def params(self, values):
        self.rows.append(dict(values))

    def tags(self, values):
        self.rows.append(dict(values))

    def artifact(self, path, folder=""):
        self.rows.append(folder)

    def end(self, status="FINISHED"):
        self.rows.append(status)


def test_names_begin_with_the_arm_and_the_run_stays_open(tmp_path):
    kept = Kept()
    arm = Arm(kept, "scratch")
    arm.metrics({"loss": 1.0}, 5)
    arm.params({"rate": 2})
    arm.tags({"note": "x"})
    arm.artifact(tmp_path, "figures")
    arm.artifact(tmp_path)
    arm.end()
    assert kept.rows == [
        ({"scratch/loss": 1.0}, 5),
        {"scratch": {"rate": 2}},
        {"scratch.note": "x"},
        "scratch/figures",
        "scratch",
    ]
    assert arm.run_id == "r"
