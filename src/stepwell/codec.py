import msgspec, typing
from typing import Any
from stepwell.errors import SerializationError, InvalidInputError
NO_ANNOTATION = object()
class Codec:
    def __init__(self, t):
        self.t = Any if t is NO_ANNOTATION else t
        self.enc = msgspec.json.Encoder(); self.dec = msgspec.json.Decoder(self.t)
    def encode(self, v):
        try: return self.enc.encode(v).decode()
        except Exception as e: raise SerializationError(str(e)) from e
    def decode(self, text): return self.dec.decode(text)
    def snapshot(self, v):
        t = self.encode(v); return t, self.dec.decode(t)
    def validate(self, v):
        t = self.encode(v)
        try: self.dec.decode(t)
        except msgspec.ValidationError as e: raise InvalidInputError(str(e)) from e
        return t
_C = {}
def codec_for(a):
    if a not in _C: _C[a] = Codec(a)
    return _C[a]
_F = {}
def codec_of_function(fn, returns=NO_ANNOTATION):
    if returns is not NO_ANNOTATION: return codec_for(returns)
    code = getattr(fn, "__code__", None)
    if code in _F: return _F[code]
    try: t = typing.get_type_hints(fn).get("return", Any)
    except Exception: t = Any
    _F[code] = codec_for(t); return _F[code]
def preview(args, kwargs=None):
    return msgspec.json.encode(args, enc_hook=lambda o: f"<{type(o).__name__}>").decode()[:4096]
