"""The detector `ewma-python`: what it does is in ewma.py."""

from ewma import Ewma
from telltale import detector, keeper

ewma = Ewma()

Detect = detector(ewma)
State = keeper(ewma)
