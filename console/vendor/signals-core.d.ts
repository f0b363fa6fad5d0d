export const signal: any;
export const computed: any;
export const effect: any;
export const batch: any;
