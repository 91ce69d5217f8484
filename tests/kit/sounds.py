"""Sounds as WAV files and as numbers: 16,000 numbers between -1 and 1 for each second."""

import io
import wave
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

RATE = 16000
Sound = npt.NDArray[np.float32]
_LOUDEST = 32768


def tone(hertz: float, seconds: float) -> Sound:
    """A tone with overtones and a little noise, as exact in 16 bits as in a WAV file."""
    times = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(3).standard_normal(len(times)) * 0.01
    wanted = sum(np.sin(2 * np.pi * hertz * number * times) * 0.3 / number for number in (1, 2, 3)) + noise
    return (np.round(wanted * _LOUDEST) / _LOUDEST).astype(np.float32)


def sounds(seconds: float) -> Mapping[str, Sound]:
    """Three that differ: in `steps` the order of four tones matters."""
    steps = np.concatenate([tone(hertz, seconds / 4) for hertz in (220, 1900, 440, 3100)])
    return {"low": tone(180, seconds), "high": tone(1500, seconds), "steps": steps}


def wav(sound: Sound) -> bytes:
    """One channel of 16 bits."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes((sound * _LOUDEST).astype("<i2").tobytes())
    return file.getvalue()
