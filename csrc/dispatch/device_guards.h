// Device guards for devices that this build of torch does not know.
//
// Autograd and many operators ask the guard of their argument's device type, whether the argument is fake or
// not. A build of torch without CUDA has none, and code that asks inside a destructor or a noexcept function
// takes the process down. A fake tensor needs no switching of devices, only somebody to answer.
//
// A program without fake tensors must not notice. So there is a guard while somebody can ask it on behalf of
// a fake tensor: for all types while a mode is active, and for good for the types of which there were fake
// tensors, which may meet autograd at any time. To everybody else a guard says that the device is not there,
// in torch's words, wherever it may raise.
#pragma once

#include <c10/core/DeviceType.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <array>
#include <cstddef>

namespace fastfake {

// The guard of one device type that torch does not know.
class AbsentDeviceGuard final : public c10::impl::DeviceGuardImplInterface {
 public:
  explicit AbsentDeviceGuard(c10::DeviceType type) noexcept : type_(type) {}

  c10::DeviceType type() const override { return type_; }

  // Asked by methods such as `to("cuda")`, and raises unless a fake mode is active or a kernel computes
  // metadata; so does getNewStream.
  c10::Device getDevice() const override;
  c10::Stream getNewStream(c10::Device device, int priority) const override;

  // What is done to the device of a tensor that exists, and so is fake, has no effect.
  c10::Device exchangeDevice(c10::Device /*device*/) const override { return no_index(); }
  void setDevice(c10::Device /*device*/) const override {}
  void uncheckedSetDevice(c10::Device /*device*/) const noexcept override {}
  c10::Stream getStream(c10::Device /*device*/) const noexcept override { return default_stream(); }
  c10::Stream exchangeStream(c10::Stream /*stream*/) const noexcept override { return default_stream(); }
  bool queryStream(const c10::Stream& /*stream*/) const override { return true; }
  void synchronizeStream(const c10::Stream& /*stream*/) const override {}

  // Making an event asks no method, so that it cannot be refused; recording it is.
  void record(void** event, const c10::Stream& stream, c10::DeviceIndex device,
              c10::EventFlag flag) const override;

  // Autograd starts as many threads as the guard with the most devices has, and then refuses to work in the
  // children of a fork. A count of zero would make torch replace the guard of CUDA, each time that a mode is
  // entered, by one for tests that has eight devices.
  c10::DeviceIndex deviceCount() const noexcept override { return -1; }

 private:
  c10::Device no_index() const noexcept { return {type_, -1}; }
  c10::Stream default_stream() const noexcept { return c10::Stream(c10::Stream::DEFAULT, no_index()); }
  void refuse_real_calls() const;

  c10::DeviceType type_;
};

// The guards, and who needs them now. Needs the GIL. A guard that torch or a backend registers, before or
// later, takes precedence.
class DeviceGuards {
 public:
  DeviceGuards();

  // Gives `type` a guard for good: a fake tensor on such a device is about to exist.
  void provide(c10::DeviceType type);

  // Gives all types guards until as many calls of take_back.
  void lend();
  void take_back();

 private:
  static constexpr auto types = static_cast<size_t>(c10::DeviceType::COMPILE_TIME_MAX_DEVICE_TYPES);

  std::array<AbsentDeviceGuard, types> guards_;
  std::array<bool, types> provided_{};
  size_t lent_ = 0;
};

}  // namespace fastfake
