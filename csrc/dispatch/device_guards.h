// Device guards for devices that are not there: this build of torch does not know their type, or it does and
// this machine has none.
//
// Autograd and many operators ask the guard of their argument's device type, whether the argument is fake or
// not. A build of torch without CUDA has none, and code that asks inside a destructor or a noexcept function
// takes the process down. A fake tensor needs no switching of devices, only somebody to answer.
//
// A program without fake tensors must not notice. So there is a guard while somebody can ask it on behalf of
// a fake tensor: for all types while a mode is active, and for good for the types of which there were fake
// tensors, which may meet autograd at any time. To everybody else a guard says that the device is not there,
// in torch's words, wherever it may raise.
//
// torch's own mode replaces the guard of a CUDA without devices, too, but for good, for everybody, and by one
// that claims eight devices: autograd then starts eight threads, or has none for them if it ran before.
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

  // The guard of torch's in whose place this one stands. It says in torch's words that there is no device.
  void stand_in_for(const DeviceGuardImplInterface* torchs) noexcept { torchs_ = torchs; }
  const DeviceGuardImplInterface* torchs() const noexcept { return torchs_; }

  // Asked by methods such as `to("cuda")`, and raises unless a fake mode is active or a kernel computes
  // metadata; so does getNewStream.
  c10::Device getDevice() const override;
  c10::Stream getNewStream(c10::Device device, int priority) const override;

  // What is done to the device of a tensor that exists, and so is fake, has no effect.
  c10::Device exchangeDevice(c10::Device /*device*/) const override { return no_index(); }
  void setDevice(c10::Device /*device*/) const override {}
  void uncheckedSetDevice(c10::Device /*device*/) const noexcept override {}
  c10::Stream getStream(c10::Device device) const noexcept override { return default_stream(device); }
  c10::Stream getDefaultStream(c10::Device device) const override { return default_stream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override;
  bool queryStream(const c10::Stream& /*stream*/) const override { return true; }
  void synchronizeStream(const c10::Stream& /*stream*/) const override {}

  // Making an event asks no method, so that it cannot be refused; recording it is.
  void record(void** event, const c10::Stream& stream, c10::DeviceIndex device,
              c10::EventFlag flag) const override;

  // Autograd starts as many threads as the guard with the most devices has, and then refuses to work in the
  // children of a fork. A count of zero, where torch was built without CUDA, would make torch's own mode
  // replace the guard by the one with eight devices; a backward pass, for which there is an accelerator,
  // needs it.
  c10::DeviceIndex deviceCount() const noexcept override;

 private:
  c10::Device no_index() const noexcept { return {type_, -1}; }
  static c10::Stream default_stream(c10::Device device) noexcept {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  bool is_asked_for_fake() const;

  c10::DeviceType type_;
  const DeviceGuardImplInterface* torchs_ = nullptr;
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

  // torch was built for CUDA and there is no device of it: from now on guards of that type are given, too.
  void replace_torchs_of_cuda();

  // Brings that guard back if torch's own mode took it away since.
  void stay();

  // The index of the device of `type` that one without an index means in a call on fake tensors, whatever
  // modes are active; -1 where no device is there, so that it always means the first.
  c10::DeviceIndex current_index(c10::DeviceType type) const;

  // Whether a guard of ours is in place for `type`.
  bool answers_for(c10::DeviceType type) const noexcept;

  // Whether there was a fake tensor on any device that is not there.
  bool any_for_good() const noexcept { return any_for_good_; }

 private:
  static constexpr auto types = static_cast<size_t>(c10::DeviceType::COMPILE_TIME_MAX_DEVICE_TYPES);

  std::array<AbsentDeviceGuard, types> guards_;
  std::array<bool, types> provided_{};
  bool any_for_good_ = false;
  size_t lent_ = 0;
};

}  // namespace fastfake
