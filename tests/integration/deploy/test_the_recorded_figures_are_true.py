"""What the simulator is compared with is what the recorded series give when they are measured again."""

import pytest

from deploy.recording import open_recording
from deploy.simulator.calibration import RECORDED, recorded
from services.shared.testing import recorded_data


@pytest.mark.parametrize("series", sorted(RECORDED))
def test_measuring_a_recording_again_gives_the_figures_that_are_kept(series: str) -> None:
    with open_recording(recorded_data(series)) as recording:
        assert recorded(recording) == RECORDED[series]
