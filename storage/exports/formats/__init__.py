"""Export formats, one module each; `storage.exports.registry` finds its `FORMAT`. Add a module to add a format."""
