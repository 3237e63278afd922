// The real tensors among the arguments of a call, and the fake tensors that take their place.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/python_headers.h>

#include <cstddef>
#include <vector>

namespace fastfake {

class RealArguments {
 public:
  // Notes the real tensors in `argument`, also those in a list, of which it makes a copy. The argument has to
  // stay where it is.
  void find_in(c10::IValue& argument);

  // Whether there is a fake tensor as well.
  bool are_beside_fake_ones() const { return has_fake_; }

  // Converts the real tensors under `mode` and puts the fake ones in their places. Returns false, with no
  // change, where the mode does not take them, or not as plain tensors. Calls Python.
  bool convert(PyObject* mode);

 private:
  struct Place {
    c10::IValue* argument;
    size_t element;  // in a list
  };

  void note(const at::Tensor& tensor, Place place);

  std::vector<at::Tensor> tensors_;
  std::vector<Place> places_;
  bool has_fake_ = false;
};

}  // namespace fastfake
