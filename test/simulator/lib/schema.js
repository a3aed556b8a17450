// Types of request bodies. A body field that is not described is refused, because a client that sends it expects an effect
// which nobody taught the simulator.

export const str = (more) => ({ t: 'string', ...more });
export const int = (more) => ({ t: 'integer', ...more });
export const num = () => ({ t: 'number' });
export const bool = () => ({ t: 'boolean' });
export const any = () => ({ t: 'any' });
export const oneOf = (...values) => ({ t: 'string', values });
export const arr = (item, more) => ({ t: 'array', item, ...more });
export const map = (item) => ({ t: 'map', item });
export const obj = (fields, required = [], more) => ({ t: 'object', fields, required, ...more });

function found(value) {
  if (value === null) return 'NULL';
  if (Array.isArray(value)) return 'array';
  if (typeof value === 'number') return Number.isInteger(value) ? 'integer' : 'number';
  return typeof value;
}

function fits(type, value) {
  switch (type) {
    case 'any': return true;
    case 'string': return typeof value === 'string';
    case 'boolean': return typeof value === 'boolean';
    case 'integer': return Number.isInteger(value);
    case 'number': return typeof value === 'number' && Number.isFinite(value);
    case 'array': return Array.isArray(value);
    default: return value !== null && typeof value === 'object' && !Array.isArray(value);
  }
}

// Adds to errors what is wrong with value. `nulls`: null counts as absent, as the batch call has it (API.md 7, trap 14).
export function check(desc, value, path, errors, nulls = false) {
  if (nulls && value === null) return;
  if (!fits(desc.t, value)) {
    const type = desc.t === 'map' ? 'object' : desc.t;
    errors.push({ field: path, message: `Schema describes ${type}, ${found(value)} found instead` });
    return;
  }
  if (desc.t === 'object') checkObject(desc, value, path, errors, nulls || desc.nulls);
  else if (desc.t === 'array') checkArray(desc, value, path, errors, nulls);
  else if (desc.t === 'map') for (const key in value) check(desc.item, value[key], join(path, key), errors, nulls);
  else if (desc.values && !desc.values.includes(value)) {
    errors.push({ field: path, message: `Value must be one of: ${desc.values.join(', ')}` });
  } else if (desc.max && value.length > desc.max) {
    errors.push({ field: path, message: `Value must not be longer than ${desc.max} characters` });
  }
}

function join(path, key) {
  return path ? `${path}.${key}` : key;
}

function checkObject(desc, value, path, errors, nulls) {
  for (const key in value) {
    const field = desc.fields[key];
    if (field === undefined || !Object.hasOwn(desc.fields, key)) {
      errors.push({ field: join(path, key), message: 'This field is not part of the schema' });
    } else {
      check(field, value[key], join(path, key), errors, nulls);
    }
  }
  for (const key of desc.required) {
    if (value[key] === undefined) errors.push({ field: join(path, key), message: 'Required fields were not provided' });
  }
}

function checkArray(desc, value, path, errors, nulls) {
  if (desc.maxItems !== undefined && value.length > desc.maxItems) {
    errors.push({ field: path, message: `Must not have more than ${desc.maxItems} items` });
    return;
  }
  for (let i = 0; i < value.length; i++) check(desc.item, value[i], `${path}.${i}`, errors, nulls);
}
