// What Grafana's packages expect of a browser when they are loaded. None of it is used.
const nothing = () => {};
const element = () => ({
  style: {},
  setAttribute: nothing,
  appendChild: nothing,
  childNodes: [],
  sheet: { cssRules: [], insertRule: nothing },
});

Object.assign(globalThis, {
  window: globalThis,
  addEventListener: nothing,
  localStorage: { getItem: () => null, setItem: nothing },
  location: { href: "http://localhost/", search: "", pathname: "/" },
  navigator: { language: "en-US", languages: ["en-US"], userAgent: "" },
  history: { pushState: nothing, replaceState: nothing },
  document: {
    documentElement: element(),
    head: element(),
    addEventListener: nothing,
    createElement: element,
    getElementsByTagName: () => [element()],
  },
});

// A package that they use greets on standard output, which is for answers.
console.log = console.info = console.error;
