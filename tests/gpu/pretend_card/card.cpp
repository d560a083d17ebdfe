// Make a pretend CUDA card for a CPU build of torch: tensors say cuda:0, lie in host memory, and compute real numbers.
//
// Every operation on a card's tensor comes to `run`, which hands the same bytes to the CPU's kernel. Tensors on
// different devices raise as on a card, bytes that live are counted in blocks of 512, and what makes the host wait for
// a card is noted as torch's set_sync_debug_mode does. It shows control flow, devices, types, waits and bytes: no
// kernel of a card runs, nothing runs beside anything, and no time means anything.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <unordered_map>

namespace {
constexpr auto CUDA = c10::DeviceType::CUDA;
const c10::Device CARD(CUDA, 0), HOST(c10::DeviceType::CPU);

// ---- Bytes, as the caching allocator counts them -------------------------------------------------------------------

std::atomic<long long> live_bytes{0}, peak_bytes{0}, capacity{1LL << 60};

long long in_blocks(size_t bytes) { return (long long)((bytes + 511) / 512 * 512); }

void allocate(size_t bytes) {
  long long now = live_bytes += in_blocks(bytes);
  if (now > capacity) {
    live_bytes -= in_blocks(bytes);
    TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory (pretend card). Tried to allocate ", bytes, " bytes");
  }
  long long peak = peak_bytes;
  while (now > peak && !peak_bytes.compare_exchange_weak(peak, now)) {
  }
}

std::mutex pinned_lock;
std::set<const void*> pinned;

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* pointer = c10::GetCPUAllocator()->raw_allocate(bytes ? bytes : 1);
    std::lock_guard guard(pinned_lock);
    pinned.insert(pointer);
    return {pointer, pointer, &release, HOST};
  }
  static void release(void* pointer) {
    {
      std::lock_guard guard(pinned_lock);
      pinned.erase(pointer);
    }
    c10::GetCPUAllocator()->raw_deallocate(pointer);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* target, const void* source, std::size_t bytes) const override { std::memcpy(target, source, bytes); }
};
PinnedAllocator pinned_allocator;

// ---- Random numbers, streams, the device ---------------------------------------------------------------------------

struct Generator final : c10::GeneratorImpl {
  at::Generator inner = at::detail::createCPUGenerator();
  Generator() : c10::GeneratorImpl(CARD, c10::DispatchKeySet(c10::DispatchKey::CUDA)) {}
  void set_current_seed(uint64_t seed) override { inner.set_current_seed(seed); }
  void set_offset(uint64_t) override {}
  uint64_t get_offset() const override { return 0; }
  uint64_t current_seed() const override { return inner.current_seed(); }
  uint64_t seed() override { return inner.seed(); }
  void set_state(const c10::TensorImpl& state) override { inner.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return inner.unsafeGetGeneratorImpl()->get_state(); }
  GeneratorImpl* clone_impl() const override {
    auto* copy = new Generator();
    copy->inner = inner.clone();
    return copy;
  }
};

at::Generator& default_generator() {
  static at::Generator generator = at::make_generator<Generator>();
  return generator;
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return CUDA; }
  c10::Device exchangeDevice(c10::Device) const override { return CARD; }
  c10::Device getDevice() const override { return CARD; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, CARD); }
  c10::Stream getNewStream(c10::Device, int) const override { return c10::Stream(c10::Stream::DEFAULT, CARD); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  c10::DeviceCapability getDeviceCapability(c10::Device) const override { return {}; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};
Guard guard;
c10::impl::DeviceGuardImplRegistrar registrar(CUDA, &guard);

// ---- The same bytes, seen from the host and from the card ----------------------------------------------------------

c10::Storage storage_on(c10::DataPtr data, size_t bytes) {
  auto size = c10::StorageImpl::use_byte_size_t();
  return c10::Storage(c10::make_intrusive<c10::StorageImpl>(size, bytes, std::move(data), c10::GetCPUAllocator(), true));
}

c10::Storage host_view(const c10::Storage& card) {
  auto* owner = new c10::Storage(card);
  auto release = [](void* pointer) { delete static_cast<c10::Storage*>(pointer); };
  return storage_on(c10::DataPtr(card.mutable_data(), owner, release, HOST), card.nbytes());
}

struct Counted {
  c10::Storage host;
  size_t bytes;
};

c10::Storage card_view(const c10::Storage& host) {
  allocate(host.nbytes());
  auto* owner = new Counted{host, host.nbytes()};
  auto release = [](void* pointer) {
    auto* counted = static_cast<Counted*>(pointer);
    live_bytes -= in_blocks(counted->bytes);
    delete counted;
  };
  return storage_on(c10::DataPtr(host.mutable_data(), owner, release, CARD), host.nbytes());
}

at::Tensor tensor_on(const c10::Storage& storage, c10::DispatchKey key, const at::Tensor& like) {
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage), c10::DispatchKeySet(key), like.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return tensor;
}

// The tensors of one operation, on both sides.
struct Call {
  std::unordered_map<c10::StorageImpl*, c10::Storage> host_of_card, card_of_host;
  std::unordered_map<c10::TensorImpl*, at::Tensor> arguments;  // host tensor -> card tensor
  std::vector<at::Tensor> alive;
  bool has_card = false, has_host = false;

  c10::Storage down(const c10::Storage& card) {
    auto* key = card.unsafeGetStorageImpl();
    auto entry = host_of_card.find(key);
    if (entry == host_of_card.end()) {
      entry = host_of_card.emplace(key, host_view(card)).first;
      card_of_host.emplace(entry->second.unsafeGetStorageImpl(), card);
    }
    return entry->second;
  }

  at::Tensor down(const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (!tensor.is_cuda()) {
      has_host |= tensor.device().is_cpu() && tensor.dim() > 0;  // numbers of the host may join a card's tensors
      return tensor;
    }
    has_card = true;
    auto host = tensor_on(down(tensor.storage()), c10::DispatchKey::CPU, tensor);
    if (tensor.is_conj()) host = host.conj();
    arguments.emplace(host.unsafeGetTensorImpl(), tensor);
    alive.push_back(host);
    return host;
  }

  at::Tensor up(const at::Tensor& tensor, bool to_card) {
    if (!tensor.defined() || !tensor.device().is_cpu()) return tensor;
    if (auto entry = arguments.find(tensor.unsafeGetTensorImpl()); entry != arguments.end()) return entry->second;
    auto entry = card_of_host.find(tensor.storage().unsafeGetStorageImpl());
    if (entry != card_of_host.end()) return tensor_on(entry->second, c10::DispatchKey::CUDA, tensor);
    return to_card ? tensor_on(card_view(tensor.storage()), c10::DispatchKey::CUDA, tensor) : tensor;
  }

  // Repeat on the card's tensors what the operation did to sizes or storages of its arguments.
  void follow_resizes() {
    for (auto& [host, card] : arguments) {
      auto* impl = card.unsafeGetTensorImpl();
      bool same_memory = host->storage().data() == card.storage().data();
      if (same_memory && card.sizes() == host->sizes() && card.strides() == host->strides()) continue;
      if (!same_memory) {
        auto* storage = host->storage().unsafeGetStorageImpl();
        auto before = host_of_card.find(card.storage().unsafeGetStorageImpl());
        bool has_grown = before != host_of_card.end() && before->second.unsafeGetStorageImpl() == storage;
        auto entry = card_of_host.find(storage);
        bool is_new = entry == card_of_host.end() || has_grown;
        impl->set_storage_keep_dtype(is_new ? card_view(host->storage()) : entry->second);
      }
      impl->set_sizes_and_strides(host->sizes(), host->strides(), host->storage_offset());
    }
  }
};

// ---- What makes the host wait --------------------------------------------------------------------------------------

std::atomic<int> sync_mode{0};
std::atomic<long long> launches{0};

void note_wait(const std::string& what) {  // c10::cuda::warn_or_error_on_sync
  if (sync_mode == 1) TORCH_WARN("called a synchronizing CUDA operation (", what, ")");
  if (sync_mode == 2) TORCH_CHECK(false, "called a synchronizing CUDA operation (", what, ")");
}

const std::set<std::string> READS = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::_unique2",
    "aten::unique_consecutive", "aten::unique_dim", "aten::bincount", "aten::is_nonzero"};
const std::set<std::string> INDEXED = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"};
const std::set<std::string> MIXES_DEVICES = {
    "aten::copy_", "aten::_copy_from", "aten::index", "aten::index_put_", "aten::_index_put_impl_", "aten::index_put",
    "aten::set_", "aten::_local_scalar_dense"};

void note_waits(const c10::FunctionSchema& schema, const torch::jit::Stack& stack, size_t begin) {
  const std::string& name = schema.name();
  if (READS.count(name) || (name == "aten::repeat_interleave" && schema.overload_name() == "Tensor")) note_wait(name);
  if (name == "aten::copy_") {
    const auto &target = stack[begin].toTensor(), &source = stack[begin + 1].toTensor();
    bool is_async = stack[begin + 2].toBool();
    if (target.is_cuda() != source.is_cuda() && target.numel() && !is_async) note_wait("copy between host and card");
  }
  if (!INDEXED.count(name)) return;
  for (std::optional<at::Tensor> index : stack[begin + 1].toOptionalTensorList()) {
    if (!index || !index->defined()) continue;
    auto type = index->scalar_type();
    if (type == at::kBool || type == at::kByte) note_wait(name + " by a mask");
    else if (!index->is_cuda() && index->dim() > 0) note_wait(name + " by indices of the host");
  }
}

// ---- One operation -------------------------------------------------------------------------------------------------

void run(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto begin = stack->size() - schema.arguments().size();
  launches++;
  note_waits(schema, *stack, begin);
  Call call;
  bool wants_card = false, wants_host = false;
  for (auto i = begin; i < stack->size(); i++) {
    auto& value = (*stack)[i];
    if (value.isTensor()) {
      value = call.down(value.toTensor());
    } else if (value.isTensorList()) {
      auto tensors = value.toTensorVector();
      for (auto& tensor : tensors) tensor = call.down(tensor);
      value = tensors;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> tensors;
      for (std::optional<at::Tensor> tensor : value.toOptionalTensorList()) {
        bool is_there = tensor && tensor->defined();
        tensors.push_back(is_there ? std::optional<at::Tensor>(call.down(*tensor)) : tensor);
      }
      value = tensors;
    } else if (value.isStorage()) {
      c10::Storage storage = value.toStorage();
      if (storage.device().is_cuda()) value = call.down(storage);
    } else if (value.isDevice()) {
      (value.toDevice().is_cuda() ? wants_card : wants_host) = true;
      value = HOST;
    } else if (value.isGenerator()) {
      auto generator = value.toGenerator();
      bool is_ours = generator.defined() && generator.device().is_cuda();
      if (is_ours) value = static_cast<Generator*>(generator.unsafeGetGeneratorImpl())->inner;
    }
  }
  if (call.has_card && call.has_host && !MIXES_DEVICES.count(schema.name()))
    TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (",
                schema.name(), ")");
  {
    const auto above = c10::autograd_dispatch_keyset_with_ADInplaceOrView | c10::autocast_dispatch_keyset |
                       c10::DispatchKeySet({c10::DispatchKey::Python, c10::DispatchKey::PythonTLSSnapshot});
    c10::impl::ExcludeDispatchKeyGuard below(above);
    op.callBoxed(stack);
  }
  call.follow_resizes();
  const bool to_card = wants_card || (call.has_card && !wants_host);
  for (auto i = stack->size() - schema.returns().size(); i < stack->size(); i++) {
    auto& value = (*stack)[i];
    if (value.isTensor()) {
      value = call.up(value.toTensor(), to_card);
    } else if (value.isTensorList()) {
      auto tensors = value.toTensorVector();
      for (auto& tensor : tensors) tensor = call.up(tensor, to_card);
      value = tensors;
    }
  }
}

torch::CppFunction boxed() { return torch::CppFunction::makeFromBoxedFunction<&run>(); }

TORCH_LIBRARY_IMPL(_, CUDA, library) { library.fallback(boxed()); }

// These have a kernel for all devices, which asks for a part of CUDA's own.
TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  for (auto* name : {"copy_", "clone", "_copy_from", "_fused_sdp_choice", "empty.memory_format", "empty_strided", "resize_",
                     "set_.source_Storage_storage_offset", "set_.source_Storage", "set_.source_Tensor", "is_set_to",
                     "index_put_", "_index_put_impl_", "_fused_adamw_", "_fused_adam_", "repeat_interleave.Tensor",
                     "linalg_vector_norm", "_reshape_alias", "isin.Tensor_Tensor"})
    library.impl(name, boxed());
}
}  // namespace

namespace at {
struct PretendHooks final : CUDAHooksInterface {
  explicit PretendHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  int getNumGPUs() const override { return 1; }
  bool isPinnedPtr(const void* pointer) const override {
    std::lock_guard guard(pinned_lock);
    auto entry = pinned.upper_bound(pointer);
    return entry != pinned.begin() && *std::prev(entry) == pointer;
  }
  Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  Device getDeviceFromPtr(void*) const override { return CARD; }
  const Generator& getDefaultGenerator(DeviceIndex) const override { return default_generator(); }
  Generator getNewGenerator(DeviceIndex) const override { return at::make_generator<::Generator>(); }
};
using CUDAHooksRegistrar = PretendHooks;
C10_REGISTER_TYPED_CLASS(CUDAHooksRegistry, "CUDAHooks", PretendHooks);
}  // namespace at

extern "C" {
long long card_live_bytes() { return live_bytes; }
long long card_peak_bytes() { return peak_bytes; }
void card_reset_peak() { peak_bytes = live_bytes.load(); }
void card_set_capacity(long long bytes) { capacity = bytes; }
void card_set_sync_mode(int mode) { sync_mode = mode; }
long long card_launches() { return launches; }
}
