"""How commands end."""

import os
import signal

import pytest

from iaunet_d2.commands.console import terminated_as_interrupted


def test_a_request_to_terminate_is_an_interrupt():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
