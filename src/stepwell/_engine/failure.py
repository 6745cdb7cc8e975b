import json, traceback
from stepwell.errors import StepFailedError
def record_error(e):
    return json.dumps({"type": f"{type(e).__module__}.{type(e).__qualname__}", "message": str(e), "traceback": "".join(traceback.format_exception(e))})
def error_summary(t):
    d = json.loads(t); return d["type"], d["message"], d["traceback"]
class ErrorRegistry:
    def __init__(self, extra=()): pass
    def restore(self, text):
        d = json.loads(text)
        import builtins
        name = d["type"].rpartition(".")[2]
        c = getattr(builtins, name, None)
        if c is not None: return c(d["message"])
        return StepFailedError(d["type"], d["message"], error_traceback=d["traceback"])
