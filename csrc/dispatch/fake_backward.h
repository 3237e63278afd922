// Backward passes through fake tensors on devices that are not there.
//
// torch's engine has a queue and a thread for each device, except for the CPU, whose nodes the thread that
// asked for the pass computes. It orders the nodes by streams of the accelerator that torch was built for. Of
// a device that is not there it has neither a queue nor a stream, and it raises, or ends the process. To fake
// tensors it makes no difference who computes them, and when. So while such a pass is under way
// - the queues of all devices are the queue of the thread that asked for it;
// - for that thread torch was built for devices of that type, if it was built for no accelerator;
// - streams are what AbsentDeviceGuard says, also those to which the engine says at the end that it is done.
//
// The engine has one set of queues. So one such pass at a time is under way, and others wait for its end.
// Passes that touch no absent device go on as ever. Where torch's own mode made the engine believe in eight
// CUDA devices, it has threads and queues for them; they keep out of it, as a pass that one of them began
// would wait for the one that it is a part of.
#pragma once

#include <c10/core/DeviceType.h>
#include <c10/core/Stream.h>
#include <torch/csrc/autograd/edge.h>
#include <torch/csrc/python_headers.h>

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <vector>

namespace torch::autograd {
struct ReadyQueue;
}

namespace fastfake {

// The pass that is under way.
struct FakeBackwards {
  // The process that it is under way in, or 0. Needs the GIL. The child of a fork sees that it is not its
  // own.
  pid_t under_way_in = 0;
  // The type of the absent devices, CPU if no pass is under way. Needs no GIL.
  std::atomic<c10::DeviceType> type = c10::DeviceType::CPU;
};

// While it lives, the engine can go backward from `roots` on this thread. Needs the GIL, and lets go of it to
// wait.
class FakeBackward {
 public:
  explicit FakeBackward(const std::vector<torch::autograd::Edge>& roots);
  FakeBackward(const FakeBackward&) = delete;
  FakeBackward& operator=(const FakeBackward&) = delete;
  ~FakeBackward();

 private:
  bool active_ = false;
  bool has_queues_ = false;
  std::vector<std::shared_ptr<torch::autograd::ReadyQueue>> queues_before_;  // of the engine's own threads
  bool is_first_ = false;  // no other pass is under way on this thread
};

// Whether this thread works at such a pass, on devices of `type` or of any: the one that asked for it, and
// those of the engine that go on where it would recurse too deeply. A thread that is in the middle of another
// pass may get a yes, too, but has no gradients that this says anything about.
bool goes_backward_on_fakes(c10::DeviceType type);
bool goes_backward_on_fakes();

// What AbsentDeviceGuard calls when the engine makes `stream` the current one, on a thread that goes backward
// on fakes. At the end the engine has the streams that were current before, which it keeps by their devices'
// indices, wait for this one.
void let_engine_know(c10::Stream stream);

// `run_backward(function, tensors, args, kwargs)` of Python: what `function(tensors, *args, **kwargs)` gives,
// a method of torch's engine, which goes backward from `tensors`, a tuple of tensors and gradient edges.
// Throws what that raises.
PyObject* run_backward(PyObject* function, PyObject* tensors, PyObject* args, PyObject* kwargs);

}  // namespace fastfake
