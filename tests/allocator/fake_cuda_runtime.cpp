// A CUDA runtime for a device that is not there, with as much memory as the environment says: what torch's
// caching allocator calls. Loaded in the place of libcudart, it lets the allocator run where there is no GPU.
// Its memory has addresses and nothing else.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unordered_map>

#include <cuda.h>
#include <cuda_runtime_api.h>

namespace {

size_t of_environment(const char* name) { return std::strtoull(std::getenv(name), nullptr, 10); }

const size_t memory = of_environment("FAKE_CUDA_MEMORY");
const size_t available = of_environment("FAKE_CUDA_AVAILABLE");
constexpr size_t page = size_t{2} << 20;

size_t used = 0;
// Nothing gets an address that was used before. Expandable segments lie apart from the others.
uintptr_t next_address = uintptr_t{1} << 40;
uintptr_t next_range = uintptr_t{1} << 50;
std::unordered_map<uintptr_t, size_t> segments;
std::unordered_map<CUmemGenericAllocationHandle, size_t> handles;
CUmemGenericAllocationHandle next_handle = 1;
cudaError_t last_error = cudaSuccess;

bool take(size_t size) {
  if (used + size > available) {
    return false;
  }
  used += size;
  return true;
}

CUresult reserve_addresses(CUdeviceptr* address, size_t size, size_t, CUdeviceptr, unsigned long long) {
  *address = next_range;
  next_range += size;
  return CUDA_SUCCESS;
}

CUresult create_memory(CUmemGenericAllocationHandle* handle, size_t size, const CUmemAllocationProp*,
                       unsigned long long) {
  if (!take(size)) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  *handle = next_handle++;
  handles.emplace(*handle, size);
  return CUDA_SUCCESS;
}

CUresult release_memory(CUmemGenericAllocationHandle handle) {
  used -= handles.at(handle);
  handles.erase(handle);
  return CUDA_SUCCESS;
}

CUresult granularity(size_t* size, const CUmemAllocationProp*, CUmemAllocationGranularity_flags) {
  *size = page;
  return CUDA_SUCCESS;
}

CUresult attribute(int* value, CUdevice_attribute, CUdevice) {
  *value = 0;
  return CUDA_SUCCESS;
}

CUresult device(CUdevice* found, int number) {
  *found = number;
  return CUDA_SUCCESS;
}

CUresult nothing_to_do() { return CUDA_SUCCESS; }

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** address, size_t size) {
  if (!take(size)) {
    return last_error = cudaErrorMemoryAllocation;
  }
  segments.emplace(next_address, size);
  *address = reinterpret_cast<void*>(next_address);
  next_address += (size + page - 1) / page * page;
  return cudaSuccess;
}

cudaError_t cudaFree(void* address) {
  if (address != nullptr) {
    auto found = segments.find(reinterpret_cast<uintptr_t>(address));
    used -= found->second;
    segments.erase(found);
  }
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = available - used;
  *total = memory;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::memset(properties, 0, sizeof *properties);
  properties->totalGlobalMem = memory;
  properties->major = 9;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* found) {
  *found = 0;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDA_VERSION;
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = *greatest = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int) { return cudaSuccess; }

cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }

const char* cudaGetErrorName(cudaError_t) { return "an error of the fake CUDA runtime"; }

const char* cudaGetErrorString(cudaError_t) { return "an error of the fake CUDA runtime"; }

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  static const std::unordered_map<std::string, void*> functions = {
      {"cuMemAddressReserve", reinterpret_cast<void*>(reserve_addresses)},
      {"cuMemCreate", reinterpret_cast<void*>(create_memory)},
      {"cuMemRelease", reinterpret_cast<void*>(release_memory)},
      {"cuMemGetAllocationGranularity", reinterpret_cast<void*>(granularity)},
      {"cuDeviceGetAttribute", reinterpret_cast<void*>(attribute)},
      {"cuDeviceGet", reinterpret_cast<void*>(device)},
  };
  auto found = functions.find(name);
  *function = found == functions.end() ? reinterpret_cast<void*>(nothing_to_do) : found->second;
  if (result != nullptr) {
    *result = cudaDriverEntryPointSuccess;
  }
  return cudaSuccess;
}
}
