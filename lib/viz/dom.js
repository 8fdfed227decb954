// What the widgets build their elements with, and how they ask the kernel; it goes before them, in one module.
const ENDED = "The kernel that made this has ended: run the cell again.";

/** Send a message to the kernel, {} to see whether it is there; false if it is gone. */
function reaches(model, content = {}, buffers = []) {
  try {
    model.send(content, undefined, buffers);
    return true;
  } catch {
    return false;
  }
}

/** An element with properties (names with a dash, and role, are attributes) and children. */
function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}
