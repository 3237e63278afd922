// Faster answers to `isinstance(x, torch.Tensor)`, which torch's argument parser asks for each tensor.
//
// torch.Tensor's metaclass leaves `isinstance` to `type`, and CPython binds `type`'s method to the class anew
// for each question. While installed, the metaclass has a descriptor in its dictionary that is the bound
// method of torch.Tensor and knows fake tensors at a glance. For all other classes and objects the answer
// comes from `type`, so no answer changes.
#pragma once

#include <torch/csrc/python_headers.h>

namespace fastfake {

class InstanceCheck {
 public:
  // Put the descriptor in place, and take it away. Both leave what somebody else has put there. Need the GIL.
  void install();
  void remove();

 private:
  PyObject* descriptor_ = nullptr;  // made at the first installation
};

}  // namespace fastfake
