from datetime import timedelta
from typing import TypeAlias
from stepwell.errors import InvalidInputError
import re
Duration: TypeAlias = "timedelta | float | str"
U = {"ms":1000,"s":10**6,"sec":10**6,"second":10**6,"seconds":10**6,"min":60*10**6,"m":60*10**6,"minute":60*10**6,"minutes":60*10**6,"h":3600*10**6,"hour":3600*10**6,"hours":3600*10**6,"day":86400*10**6,"days":86400*10**6}
def to_us(value, *, what="duration", minimum=0):
    if isinstance(value, timedelta): us = value // timedelta(microseconds=1)
    elif isinstance(value, str):
        us = 0
        parts = re.findall(r"([\d.]+)\s*([a-z]+)", value)
        if not parts: raise InvalidInputError(f"bad {what} {value!r}")
        for n,u in parts: us += int(float(n)*U[u])
    else: us = int(value*1_000_000)
    if minimum is not None and us < minimum: raise InvalidInputError(f"{what} {value!r} too small")
    return us
