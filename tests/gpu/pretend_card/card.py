"""Let torch.cuda describe the pretend card, with the kernels that only a card has in float32 arithmetic.

The kernels raise where the real ones do: types, shapes and strides that they do not take.
"""

import contextlib
import ctypes
import functools
import itertools
import os
import time
import types


class Library:
    """The compiled card, `PRETEND_CARD` = path|GiB|name|capability."""

    def __init__(self):
        path, gib, self.name, capability = os.environ["PRETEND_CARD"].split("|")
        self.functions = ctypes.CDLL(path)
        self.memory = int(float(gib) * 2**30)
        self.capability = tuple(map(int, capability.split(".")))
        for name in ("card_live_bytes", "card_peak_bytes", "card_launches"):
            getattr(self.functions, name).restype = ctypes.c_longlong
        self.functions.card_set_capacity(ctypes.c_longlong(self.memory))
        self.sync_mode = 0

    def set_sync_mode(self, mode):
        import torch

        self.sync_mode = {"default": 0, "warn": 1, "error": 2}.get(mode, mode)
        self.functions.card_set_sync_mode(self.sync_mode)
        torch.set_warn_always(bool(self.sync_mode))  # a card's own warnings come every time


class Stream:
    """A stream whose work is done at once, in order."""

    count = 0

    def __init__(self, device=None, priority=0, **_):
        import torch

        Stream.count += 1
        self.stream_id = self.cuda_stream = Stream.count
        self.device, self.device_index = torch.device("cuda", 0), 0

    def wait_stream(self, stream):
        pass

    def wait_event(self, event):
        pass

    def record_event(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self):
        pass

    def query(self):
        return True


class Event:
    """A moment on the host's clock."""

    def __init__(self, enable_timing=False, **_):
        self.moment = 0.0

    def record(self, stream=None):
        self.moment = time.monotonic()

    def wait(self, stream=None):
        pass

    def synchronize(self):
        pass

    def query(self):
        return True

    def elapsed_time(self, later):
        return 1e3 * (later.moment - self.moment)


class _Device:
    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def install(library):
    """Replace what torch.cuda would ask the driver."""
    import torch

    if torch.version.cuda is not None:
        raise RuntimeError("the pretend card needs a CPU build of torch")
    functions, memory = library.functions, library.memory
    generator, streams = torch.Generator("cuda"), [Stream()]
    properties = types.SimpleNamespace(
        name=library.name,
        total_memory=memory,
        major=library.capability[0],
        minor=library.capability[1],
        multi_processor_count=132,
        warp_size=32,
        gcnArchName="",
    )

    @contextlib.contextmanager
    def stream_of(stream):
        streams.append(stream or streams[0])
        try:
            yield
        finally:
            streams.pop()

    # a function of its own for each name: Dynamo has a rule for each
    replacements = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "_is_in_bad_fork": lambda: False,
        "get_device_name": lambda device=None: library.name,
        "get_device_capability": lambda device=None: library.capability,
        "get_device_properties": lambda device=None: properties,
        "is_bf16_supported": lambda including_emulation=True: including_emulation or library.capability >= (8, 0),
        "mem_get_info": lambda device=None: (memory - functions.card_live_bytes(), memory),
        "memory_allocated": lambda device=None: functions.card_live_bytes(),
        "memory_reserved": lambda device=None: functions.card_live_bytes(),
        "max_memory_allocated": lambda device=None: functions.card_peak_bytes(),
        "max_memory_reserved": lambda device=None: functions.card_peak_bytes(),
        "reset_peak_memory_stats": lambda device=None: functions.card_reset_peak(),
        "empty_cache": lambda: None,
        "ipc_collect": lambda: None,
        "synchronize": lambda device=None: None,
        "get_rng_state": lambda device="cuda": generator.get_state(),
        "set_rng_state": lambda state, device="cuda": generator.set_state(state),
        "get_rng_state_all": lambda: [generator.get_state()],
        "set_rng_state_all": lambda states: generator.set_state(states[0]),
        "manual_seed": lambda number: generator.manual_seed(int(number)),
        "manual_seed_all": lambda number: generator.manual_seed(int(number)),
        "initial_seed": generator.initial_seed,
        "default_generators": (generator,),
        "Stream": Stream,
        "Event": Event,
        "current_stream": lambda device=None: streams[-1],
        "default_stream": lambda device=None: streams[0],
        "stream": stream_of,
        "device": _Device,
        "get_sync_debug_mode": lambda: library.sync_mode,
        "set_sync_debug_mode": library.set_sync_mode,
        "is_current_stream_capturing": lambda: False,
        "get_arch_list": lambda: ["sm_80", "sm_90"],
        "pretend_card": library,
    }
    for name, replacement in replacements.items():
        setattr(torch.cuda, name, replacement)
    torch.cuda.memory.empty_cache = replacements["empty_cache"]
    torch.cuda.random.get_rng_state = replacements["get_rng_state"]
    torch.cuda.random.set_rng_state = replacements["set_rng_state"]
    torch.version.cuda = "13.0"
    torch.storage._StorageBase.clone = torch.UntypedStorage.clone = _clone
    _register(torch, library)


def _clone(storage):
    import torch

    copy = torch.empty(storage.nbytes(), dtype=torch.uint8, device=storage.device)
    return copy.untyped_storage().copy_(storage)


LIBRARIES = []
"""Registrations end with the object that made them."""


def _register(torch, library):
    implementations = torch.library.Library("aten", "IMPL")
    LIBRARIES.append(implementations)

    def quiet(kernel):
        """Copies inside an emulated kernel are not the caller's."""

        @functools.wraps(kernel)
        def run(*args, **keywords):
            library.functions.card_set_sync_mode(0)
            try:
                return kernel(*args, **keywords)
            finally:
                library.functions.card_set_sync_mode(library.sync_mode)

        return run

    def attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False):
        return torch.ops.aten._scaled_dot_product_attention_math(
            q, k, v, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
        )[0]

    for key in ("AutogradCUDA", "CUDA"):
        implementations.impl("scaled_dot_product_attention", attention, key)
    flash = FlashAttention(torch, library)
    implementations.impl("_flash_attention_forward", quiet(flash.forward), "CUDA")
    implementations.impl("_flash_attention_backward", quiet(flash.backward), "CUDA")


class FlashAttention:
    """The operators of variable-length FlashAttention 2; q (T, h, d), k and v (S, g, d)."""

    def __init__(self, torch, library):
        self.torch, self.library = torch, library

    def check(self, q, k, v, starts_q, starts_k):
        torch = self.torch
        if self.library.capability < (8, 0):
            raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")
        assert q.dtype in (torch.float16, torch.bfloat16) and q.dtype == k.dtype == v.dtype, "only fp16 and bf16"
        assert starts_q.dtype == starts_k.dtype == torch.int32, "cu_seqlens must have dtype int32"
        assert starts_q.is_contiguous() and starts_k.is_contiguous()
        assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1, "contiguous last dimension"
        assert q.shape[-1] <= 256 and q.shape[-1] % 8 == 0 and q.shape[1] % k.shape[1] == 0

    def weights(self, q, k, scale, is_causal, left, right):
        """Return softmax(scale q kᵀ), (h, queries, keys), and its log of sums, aligned at the lower right."""
        torch = self.torch
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        row = torch.arange(len(q))[:, None] + len(k) - len(q)
        column = torch.arange(len(k))[None]
        hidden = torch.zeros(len(q), len(k), dtype=torch.bool)
        right = 0 if is_causal else right
        if right >= 0:
            hidden |= column > row + right
        if left >= 0:
            hidden |= column < row - left
        scores = scores.masked_fill(hidden, float("-inf"))
        return scores.softmax(-1).nan_to_num(0.0), scores.logsumexp(-1)

    def spans(self, starts):
        numbers = starts.cpu().tolist()
        return [slice(*pair) for pair in itertools.pairwise(numbers)]

    def forward(self, q, k, v, starts_q, starts_k, longest_q, longest_k, dropout, is_causal, debug, **options):
        torch = self.torch
        self.check(q, k, v, starts_q, starts_k)
        scale, left, right = self.options(q, options)
        groups, outputs, sums = q.shape[1] // k.shape[1], [], []
        wide_q, wide_k, wide_v = (tensor.cpu().float() for tensor in (q, k, v))
        with torch.no_grad():
            for queries, keys in zip(self.spans(starts_q), self.spans(starts_k), strict=True):
                assert queries.stop - queries.start <= longest_q and keys.stop - keys.start <= longest_k
                ks, vs = (tensor[keys].repeat_interleave(groups, 1) for tensor in (wide_k, wide_v))
                weights, logsumexp = self.weights(wide_q[queries], ks, scale, is_causal, left, right)
                outputs.append(torch.einsum("hqk,khd->qhd", weights, vs))
                sums.append(logsumexp)
        output = torch.cat(outputs).to(q.dtype).to(q.device)
        state = torch.zeros(2, dtype=torch.uint64, device=q.device)
        unused = torch.empty((), dtype=torch.uint64, device=q.device)
        return output, torch.cat(sums, 1).to(q.device), state, unused, torch.empty(0, dtype=q.dtype, device=q.device)

    def backward(
        self, grad, q, k, v, output, sums, starts_q, starts_k, longest_q, longest_k, dropout, is_causal, *_, **options
    ):
        torch = self.torch
        self.check(q, k, v, starts_q, starts_k)
        scale, left, right = self.options(q, options)
        groups = q.shape[1] // k.shape[1]
        wide_q, wide_k, wide_v, dy = (tensor.cpu().float() for tensor in (q, k, v, grad))
        dq, dk, dv = (torch.zeros_like(tensor) for tensor in (wide_q, wide_k, wide_v))
        for queries, keys in zip(self.spans(starts_q), self.spans(starts_k), strict=True):
            ks, vs = (tensor[keys].repeat_interleave(groups, 1) for tensor in (wide_k, wide_v))
            weights, _ = self.weights(wide_q[queries], ks, scale, is_causal, left, right)
            dp = torch.einsum("qhd,khd->hqk", dy[queries], vs)
            inner = (weights * dp).sum(-1, keepdim=True)
            ds = weights * (dp - inner) * scale  # the derivative of the softmax
            dq[queries] += torch.einsum("hqk,khd->qhd", ds, ks)
            dk[keys] += torch.einsum("hqk,qhd->khd", ds, wide_q[queries]).unflatten(1, (-1, groups)).sum(2)
            dv[keys] += torch.einsum("hqk,qhd->khd", weights, dy[queries]).unflatten(1, (-1, groups)).sum(2)
        return tuple(tensor.to(q.dtype).to(q.device) for tensor in (dq, dk, dv))

    def options(self, q, options):
        scale = options.get("scale")
        left, right = (options.get(name) for name in ("window_size_left", "window_size_right"))
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        return scale, -1 if left is None else left, -1 if right is None else right
