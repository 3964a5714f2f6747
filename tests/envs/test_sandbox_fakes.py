"""What a candidate does to pass tests that it does not pass, under every mechanism that works here."""

from __future__ import annotations

import pytest

from tests.envs.sandbox_runs import case, needs_linux, run
from tgpo_ray.envs.sandbox import Sandbox

pytestmark = needs_linux


FAKES = {
    "exit before the asserts": "import os\nos._exit(0)",
    "exit in the call": "import os\ndef f(*a): os._exit(0)",
    "SystemExit at import": "import sys\nsys.exit(0)",
    "SystemExit in the call": "import sys\ndef f(*a): sys.exit(0)",
    "an object equal to everything": """
        class Same:
            __eq__ = lambda self, other: True
            __ne__ = __bool__ = __lt__ = __hash__ = lambda *a: True
        def f(*a): return Same()""",
    "a number equal to everything": """
        class Same(int):
            __eq__ = lambda self, other: True
            __hash__ = int.__hash__
        def f(*a): return Same(0)""",
    "patched built-ins": """
        import builtins, sys
        class Never(Exception): pass
        builtins.AssertionError = Never
        builtins.compile = builtins.exec = builtins.len = lambda *a, **k: None
        def f(*a): return 0""",
    "a forged verdict on every descriptor": """
        import os
        def f(*a):
            for text in (b'{"passed": 1, "total": 1, "detail": ""}', b'{"value": true}', b'[]', b'no json'):
                for descriptor in range(64):
                    try: os.write(descriptor, len(text).to_bytes(4, "big") + text)
                    except OSError: pass
            return 0""",
    "the expected value from memory": """
        import gc, sys
        def f(*a):
            found, frame = [], sys._getframe()
            while frame:
                found += [frame.f_locals, frame.f_code.co_consts]
                frame = frame.f_back
            found += [vars(module) for module in list(sys.modules.values())] + gc.get_objects()
            for thing in found:
                if isinstance(thing, (dict, list, tuple)):
                    for value in list(thing.values() if isinstance(thing, dict) else thing):
                        if isinstance(value, str) and value[:4] == "need" and value[-4:].isdigit():
                            return value
            return 0""",
    "the protocol module of its process": """
        import sys
        for name, module in list(sys.modules.items()):
            for key in list(vars(module)):
                if name.startswith("tgpo_ray_sandbox") and callable(vars(module)[key]):
                    setattr(module, key, lambda *a, **k: True)
        def f(*a): return 0""",
    "a bomb of nesting": "def f(*a):\n    x = []\n    for _ in range(500): x = [x]\n    return x",
    "itself in itself": "def f(*a):\n    x = []\n    x.append(x)\n    return x",
}


@pytest.mark.parametrize("source", FAKES.values(), ids=FAKES.keys())
def test_no_trick_fakes_a_pass(sandbox, source):
    sandbox = Sandbox(sandbox.mechanism, deadline_s=1.5)
    hidden = "assert f(1) == " + repr("needle-" + str(4711))
    for test in (
        hidden,
        case("needle-4711", 1),
        "try:\n    assert f(1) == 'needle-4711'\nexcept Exception:\n    raise",
    ):
        verdict = run(sandbox, source, test)
        assert (verdict.score, verdict.outcome) == (0.0, "wrong"), verdict  # it may silence itself: out of time
