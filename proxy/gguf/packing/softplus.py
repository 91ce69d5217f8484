"""The logarithm of 1 + exp(x) in F32, rounded as torch rounds it. Pure.

torch computes it with SLEEF's `expf` and `log1pf`, which are off by up to one unit in the last place. Each step here is
one of theirs (sleefsimdsp.c, `xexpf` and `xlog1pf`, with fused multiplications). torch takes the last numbers of a
tensor whose length is no multiple of 16 from the C library instead, which rounds some otherwise.
"""

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float32]
_F = np.float32
_LINEAR = 20
"""Above it torch takes x itself."""
_EXP = (0.00139304355252534151, 0.00833336077630519867, 0.0416664853692054749, 0.166666671633720398, 0.5)
_LOG_HIGH, _LOG_LOW = _F(0.69314718246459960938), _F(-1.904654323148236017e-09)


def softplus_of(content: bytes) -> bytes:
    """`content` and the result are F32 numbers."""
    return _softplus(np.frombuffer(content, "<f4")).tobytes()


def _softplus(numbers: Numbers) -> Numbers:
    with np.errstate(all="ignore"):
        small = np.clip(numbers, _F(-120), _F(_LINEAR))
        return np.where(numbers > _LINEAR, numbers, np.where(np.isnan(numbers), numbers, _log1p(_exp(small))))


def _fused(a: Numbers | np.float32, b: Numbers | np.float32, c: Numbers | np.float32) -> Numbers:
    """The sum a · b + c, rounded once."""
    return np.asarray(np.multiply(a, b, dtype=np.float64) + c, np.float32)


def _scaled(x: Numbers, power: npt.NDArray[np.int32]) -> Numbers:
    result: Numbers = np.ldexp(x, power)
    return result


def _exp(x: Numbers) -> Numbers:
    power = np.rint(x * _F(1.442695040888963407))
    rest = _fused(power, _F(-1.428606765330187045e-06), _fused(power, _F(-0.693145751953125), x))
    result: Numbers | np.float32 = _F(0.000198527617612853646)
    for coefficient in _EXP:
        result = _fused(result, rest, _F(coefficient))
    return _scaled(_F(1) + _fused(rest * rest, result, rest), power.astype(np.int32))


def _log1p(x: Numbers) -> Numbers:
    """The number is a sum of two in each step, the larger first."""
    exponent = np.frexp((x + _F(1)) * _F(1 / 0.75))[1] - 1
    scale = _scaled(np.ones_like(x), -exponent)
    rest = _fused(x, scale, scale - _F(1))
    count = exponent.astype(np.float32)
    high = count * _LOG_HIGH
    low = _fused(count, _LOG_LOW, _fused(count, _LOG_HIGH, -high))
    quotient, error = _over_two_more(rest)
    square = quotient * quotient
    series = _fused(_fused(_F(0.3027294874), square, _F(0.3996108174)), square, _F(0.6666694880))
    first = high + _F(2) * quotient
    below = high - first + _F(2) * quotient + low + _F(2) * error
    last = square * quotient * series
    total = first + last
    result: Numbers = total + (first - total + last + below)
    return result


def _over_two_more(x: Numbers) -> tuple[Numbers, Numbers]:
    """The quotient x / (2 + x)."""
    high = _F(2) + x
    low = _F(2) - high + x
    inverse = _F(1) / high
    quotient = x * inverse
    inexact = _fused(-low, inverse, _fused(-high, inverse, _F(1)))
    return quotient, _fused(quotient, inexact, _fused(inverse, x, -quotient))
