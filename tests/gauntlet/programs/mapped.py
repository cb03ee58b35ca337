"""Its state is a mapped file of two halves, one of which is always whole."""

import json
import os
import zlib
from pathlib import Path

import numpy as np
from ledger import EVERY, STEPS, final, made, resumed, saved

SIZE = 1 << 16
is_new = not os.path.exists("state.npy")
state = np.memmap("state.npy", np.int64, mode="w+" if is_new else "r+", shape=(2, SIZE))
head = Path("head.json")
step, half = 0, 0
if head.exists():
    step, half, checksum = json.loads(head.read_text())
    assert zlib.crc32(state[half].tobytes()) == checksum, "the half that counts is not whole"
resumed(step)
values = np.array(state[half])
while step < STEPS:
    step += 1
    values = values * 3 + step
    if step % EVERY == EVERY // 2:
        state[1 - half, : SIZE // 2] = values[: SIZE // 2]  # begins early, ends late
    if step % EVERY == 0:
        half = 1 - half
        state[half] = values
        state.flush()
        draft = Path("head.json.tmp")
        draft.write_text(json.dumps([step, half, zlib.crc32(state[half].tobytes())]))
        draft.replace(head)
        saved(step)
    made(step)
final(values.tolist())
