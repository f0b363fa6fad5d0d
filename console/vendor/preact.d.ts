export const h: any;
export const render: any;
export const Fragment: any;
export const createRef: any;
