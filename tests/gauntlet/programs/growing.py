"""Its state is a file that only grows: it continues after the last whole record."""

import struct

from ledger import STEPS, final, made, resumed, saved

RECORD = struct.Struct("<qq4080x")
PER_STEP = 8
file = open("stream.bin", "ab+")
whole = file.tell() // (RECORD.size * PER_STEP)
file.truncate(whole * RECORD.size * PER_STEP)
file.seek(0)
total = 0
for number in range(whole * PER_STEP):
    found, value = RECORD.unpack(file.read(RECORD.size))
    assert found == number, f"record {number} is {found}"
    total += value
resumed(whole)
for step in range(whole + 1, STEPS + 1):
    for number in range((step - 1) * PER_STEP, step * PER_STEP):
        file.write(RECORD.pack(number, number * number))
        total += number * number
    file.flush()
    saved(step)
    made(step)
file.close()
final(total)
