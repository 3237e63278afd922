// Has torch's own caching allocator do what standard input says, a line an operation: "malloc NUMBER BYTES",
// "free NUMBER" or "empty_cache". For each it writes a line with what came of it: the outcome, the address,
// and the bytes allocated, reserved and inactive but split, the segments and the retries from then on; in the
// end, a line a segment: the address, the pool, whether it is expandable, and its blocks, those in use with
// an "A".

#include <cstdio>
#include <iostream>
#include <string>
#include <unordered_map>

#include <unistd.h>

#include <c10/cuda/CUDACachingAllocator.h>

namespace allocator = c10::cuda::CUDACachingAllocator;

int main() {
  // For the other kinds of handles it asks for things that the fake runtime does not have.
  allocator::CUDAAllocatorConfig::set_expandable_segments_handle_type(
      allocator::Expandable_Segments_Handle_Type::POSIX_FD);
  allocator::init(1);
  std::unordered_map<long, void*> addresses;
  std::string operation;
  long number = 0;
  size_t size = 0;
  while (std::cin >> operation) {
    const char* outcome = "ok";
    void* address = nullptr;
    if (operation == "malloc") {
      std::cin >> number >> size;
      try {
        address = addresses[number] = allocator::raw_alloc_with_stream(size, nullptr);
      } catch (const c10::OutOfMemoryError&) {
        outcome = "oom";
      }
    } else if (operation == "free") {
      std::cin >> number;
      allocator::raw_delete(addresses[number]);
      addresses.erase(number);
    } else {
      allocator::emptyCache();
    }
    auto stats = allocator::getDeviceStats(0);
    std::printf("%s %zu %ld %ld %ld %ld %ld\n", outcome, reinterpret_cast<size_t>(address),
                stats.allocated_bytes[0].current, stats.reserved_bytes[0].current,
                stats.inactive_split_bytes[0].current, stats.segment[0].current, stats.num_alloc_retries);
  }
  for (const auto& segment : allocator::snapshot().segments) {
    std::printf("segment %zu %s %s", segment.address, segment.is_large ? "large" : "small",
                segment.is_expandable ? "expandable" : "fixed");
    for (const auto& block : segment.blocks) {
      std::printf(" %zu%s", block.size, block.allocated ? "A" : "");
    }
    std::printf("\n");
  }
  std::fflush(stdout);
  // Ending in the usual way gives back memory to a device that is not there.
  _exit(0);
}
