"""Pickled tables: what is read, what is refused, and that nothing a file asks for is ever run."""

from __future__ import annotations

import base64
import bz2
import collections
import contextlib
import datetime
import decimal
import functools
import gzip
import io
import lzma
import operator
import os
import pathlib
import pickle
import struct
import subprocess
import tracemalloc
import zipfile
import zlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hr_search.base.errors import InputError
from hr_search.data import unpacking
from hr_search.data.cleaning import Unread
from hr_search.data.pickles import read_pickle_frame
from hr_search.data.tables import read_pairs
from hr_search.data.unpacking import content

POSITIONS = ["Кассир", "Courier", "Врач 🩺"]
DESCRIPTIONS = ["Работа на кассе", "Deliver, fast", "Приём"]

# One small table, pickled (protocol 4, zlib, base 85) by five older pandas: columns position, negatives, id, rate,
# grade (category), day (datetime), note (string), count (Int64) and, but for 1.0.5, arrow (string[pyarrow]).
OLDER = {
    "1.0.5": (
        "c-oa#Pfrs;6z{g(wibwzNJI}LnyC0EjU;G1XjDp!xKa~5lXZ4?=q$Fob!HYJ(I^K{%p^t`FI-JLd(>|M-@uFC!5hAr-NkJw3VYZ$owx7L@6GSM>6"
        "_x`^-"
        "4}ZVz`3>53!mXQe0c0sEwsKHjOyCuh*OM(yDwV$AxKouqnk@_Ip3zm<FiDYHbvtCZ<e^!Kqg0KAVky$M)m%;9#`d(8J4^)f~hiUeylp3wuWGfdLs"
        "1X1Z39i*ewQAZmA3V)J&?;y$7jtw21RVmAyJr;*FSM40+RDasH|f3hj9+?uQ#j(jWU<hW&6l{HC5gz52>j)Exik8jG2cd@o0jF+;}Xgu77N58B)T"
        "sj*HL!}ckpZj3|H41POaeoN|<h<`mQKX0i7PCo_2eRO)<cdM4H{CD_xWwQGwp3jk(K<vUL*jJ5vQQK>RbA$k%+!L^8p328Q4Wwqk@2u2Az@fxSQy"
        "$ThD6Cpa!O$)r&Gj+Ralo~Oyn23klyM+no~&YqcJyr-ihV!*Rjmqm7xBIZ$IOkO!f6#PFyAQ%N<MPe>~6r^<3QN846R+2TW=MgUfZ9qImz~`qr<J"
        "UfDlZUdKAC&v|frYx~>I>dxx+_nkMuq<R=pAK2VbN(0CUT!K0a!<A@0KGv?j(7b~+Frpb!-$gAc2I`q#du>&+V-j}rK<}|cNO2-#I-"
        "PJfv9G2v;5#xzjw_N3_W`$-"
        "LNg*rdr9XEY|@Mo<&b)qVoz>F4rJtpp7OTONntHM<%!HGpX+zZh1{;8iVWV)^eGFpsvk6MD9IDOx|eim0;yuBjoUwk1jn)zCllv(%XeS|`HX=#Xv"
        "fAq-PAiDW0=p$hcr~CdIuz@Mw%L2VsIv2b!SJ+{z*Loz8MLZQ(4Gx8|G&lv1bQY)j32}jo1~O5ON8IbkY$<zKANMdt)+#k426i1qYMDNQz0uQHBk"
        "NF}QeCgUg3B*yAZVPcGmi2Dx<9tgal@;A++YL;XwFY7>*SiTIvE%c^avqU5L>kV$}{TYL$%BBi-"
        "4D(xn<K?yxwaUvfsF&JAg(ObT&PR%M<Maxi8BQRVn0g=dq#WIM+D!kN)>Q&EW)TUMHRX@$Bm3@yo%&3cC-"
        "=qGNQJ1W8ulj37UA8KT8b?fDb2d;Bu1R%yr++K#Hs(m*<}f==#5w$5cm<7E`vd%LA9M"
    ),
    "1.5.3": (
        "c-oa#&2QX96kqRpzmoJzr8GbU*T7*VBvK)SRML%*TB}AX;)1daWAE&awO-rU<0dN+(Hs&QG#8ZN(hDafjvR})@Fyhv1zdXLgg9_3?~Uzdy&qCpX?"
        "Mn+nfHG0{eJJwJ~Ds!pk2`)c`c$rpC%nQj9F(8(=k)By+Z~4SkF(@+lT5vZAz1jhq01xPH*=D!Qz1WNoPz0I%IL8<k}rSbVv8IXE?qoU(JsY-"
        "*b|SGfG||X%Knt$Y;dCL$F)k2-0yh$;^*aUwAZ*=>*J@n7Lt)h&XixZmjE#N;bi^-"
        "g2s}%8}|Cj`~(TP@9%vRjt~w;#Xw7FD4O&BCDUguTCCk>osY7t!&%A_Z&X@$GR<)bJ7FIYiCc+emOrpKRkPS{s??@!!-"
        "6F92*x6sw8+}Js4a?dy2s^*>X}3;06#^J@Gx4X+VI%KzCLZfB7oE%&#F#e!T!`Xprl&>Xo2<I0LPM(7Nl*jI~NDA9EHf3YPgh81YN{8%+7*w-"
        "$QKZ2x&X8~^<#clJ^4t!9~JZ}NJHYRwDeV}p=rvVTFgy|axgcc?pJeWax%s_az9rGgE^*mJ3`<Z5^7=~Uf&y8GEB8-"
        "2>xrjKf#lYCI}>eQ*7Tmre8R|@mEZ@sMPKHCQ)4o#pER!G41$X$E~hxzBSUd(k(^r24Fe2%N|@P-"
        "zWk%CAbW(qL_EGRoYM%>LX?z0%eKS`Z=1GS?}67Nn?w6TbyTIIQcY#e~-"
        "krLCY&j`Sl8w;`vz?tyI82zQ4e7>ER(M5I<!~F}Hm~%3LBy_7Fd95o$sAH{+<(m8d#<U8*`*rKdvm3Kx7PqXELCn5Vc9LbFZZ+mI@cM!bKqv8nAp"
        "vcDs%HzL|FKvriAOdQ5ysHnlx##3!NWi$ODN1Wu&?ARrNS6{Ndjh}AKBZwEuDX_B~q~1u$nW4wI~AYq}XHS+TCncgpg~zPL{|Mp>088jl7<Vu{PC"
        "A;PjX#BehhU&P!<1$V@eeOI^+Y6u-"
        "%TlPduC)_bL#@;?yps&45d>(+crnj<Jis2@+IiIb$5nWoj6$;?~JxrL{258A*sj%Aj!6!G8XYBbT?IzSB6g3HqYni46ll%C?x<Yl;fkaPCp^(MYW"
        "m}C&fg!&#$kjF;mSREli=)_i~r?<8tDkmKb^o7VbW!squR@mwqb$tN8{BQnG_iDk3k#kaBuI+<biZ^fx*+S1K|EuI*cbP_!%%8F}|16t%yr5Z~(3"
        "aJnPN-"
        "0bc$a^H+4*vw{Pqh~x1uodga_)E?SKub@E&3}sd~Ve8AD5f${fbD4`Z#5H@F#u`lTDDfq*fCfwJdb))e_}xt$lSIHmzs+sXqRr}{6PgS%GHSinsy"
        "O`s@(wBv-q#LzaG&VxxH4FD7iqWF(P#!OIMAw5JR1pIqBz?2PqI@Hsf)c3=^g!I!0E_4Wq_|#$W&*d?QvGX6*%$wo"
    ),
    "2.0.3": (
        "c-oa#&u`pB6khLoe<f+!s<Z@%;2JorghVP1NG06}skLgPA}%P)F!s*wSnIWoJ#MlR5zQf?L32SFF1>I<;>fXx3x7hwU%&;<h!eN+-q>!|`$H-"
        "#?ap{--ka~e?|X0j*!=!hyP`kxdPIXhO*(EEv(6x<W2R(#mkRoko}a0=kJO>sk|r4sV<q35-"
        "tGm0#R2t`&X@*t$l^rFwYz@kjvi#sV7?`9<tD`UoaE9*$*Uv{BF`Q9j5ufnyXDOw9Y>SQ{W$f7N8^}Iz%7ZH8wQDpQ&-"
        "@|y56W{6MX9}XUeJ^tFGawZ`4DzWf@l0s+}l)Ro44r5@9H^`tkef^hvf}lg3xdw(a}R;iG@7J3=|9J%GG+{`CCki=&I9^Jf>2;f!vW#vX)Y<Dx;8"
        "gi}}#23OIZVqhj)PU->N0OG1AzUMLx2rw9UoK?kNzRK76b%e=p6d(-"
        "^azj?V60{Fypj8lBccYoHR%zv9&SFKuGJgjne(CcDQ|Iy93s1{@|8XZ9|NS~Y?8E%Dnq`(xlQ&9KYhEB9n}kG@gG;jQ-5p%HOWhIcBP}ISWmX-"
        "R3N{R5&!xVStKF%mGj;#j-ltb=JX5|lZK`=r@<GXKQ&zjV1adX66z*}~Mp@H+b^uNsnm{G2kbv!zd-xw1^Uq|xnCqJ8L!GGk99QAt4J{-"
        "i1(7_;6k-NgP<DEPxSL_zXEB6-nmY3iYR8!*-"
        "kqXoa}h<g%5wwRI0VrnC8kxM5r8c>7i1TJGvSRf`YXHnd?zoX%j_bC2bVH2=VSs&=vG1UT33cpCt4ZHHTVCWX%&9^%l6YhZ_bWc+_FvvG5b>4NtS"
        "`S)tJk`>kBdfox}@<1hn;uo-"
        "K&}hhnWH9@$Jp7(;hcvJp)L4+E7fp)l9Lfs(J33S;ag3AlxRWbf#<bn%^*NWo&mYR(kaq6n~)Vvm(;_p(_LLay;TSt3t_whf6j@_H`D+Eg<E>oHA"
        "6YN<Azm(Zq>xoQxXx}0I|@>a}$l`8=H_Istw^4}5ms&4Eg-?%N!5tJlUk*CtcNm9&D(`wD+=dI-o!&A5q&0q(|GS^w6_-"
        "}GGn&@pEphwAdxNDGOMv9wdi~l9p5fB-KF`>Rk6XdOt9ifg93Upqp($ibpfZs_61APJVE!lP^f)&2HMqL}=m;cTG>0T>1Fmevc%e4bgNAV9_I=0X"
        "=$ZDRVAG75BB%65@phumimern4lTe6mkAIFae=$#N`-"
        "Ng#QJ8qb17*v0z=l+KkFZlzJ>bENp<Mux!<hDAto8ABHiJ<A>4s?_V9a2kq`8+hJib?M)kT|)X@Hfq@({<V-"
        "U@bbj|v(KxJ9K2bVQJ1oG_Re+9%VU)FhAw0E%KS-e1U=398lKLo`Cbo5>-jY~a(Op1w+bKip49KaJqBhLDI)9R_bDPe5Xw{{Vd{iy;"
    ),
    "2.2.3": (
        "c-oa#&u`pB6khMz+1(_htqLVTL=mTj!%CHC#Q~|L8zHq;jZ|)^%P_WQcdU4AGafftiHPQq(4e`X3=-"
        ";%6A~wmaNvJP{sSb$5g~5e%A2v>*!x2&D<v~t&wKBC-"
        "}~O1eQbXBcDJEF;!1)eAE$jUW~4u2ctWJ;?qH5T()&~S&Y?VzJz=8Bm`U+w^>`3*!Xg}|{Rxinn6Ole^*dqg?cUFy!MrD~6(%SQ-"
        "1Ndmic2VqlEB*y338PYoEF!jY?4g-Nc*2;ArCNPcnW?IBVHV(oMj$YCoO$aiZ(dcM^2^PIFbXym0!yTvS%B1({3G0dP!J5pC&37(fs&*dGaKG-"
        "x9``(s7)7&)}o~*|)iLPlkYb{p{)4&*z8dhiAW>KZY2CIAa0i<EWPgmI9)XAuOK6LrK6)blfZexDg~~rD5O^4G1t8DxBR^|LGdtpjQ-"
        "3dbI>;Xpozt8PuSCFaxcjpba+LdD$ABVlB$pknozmt1^D!c%w=@dTU{{-"
        "1qOd^Y!1aieMiW(OR}yk0!3xYOU)6d~6|<O!qIU?d)u;H+QhNOMF$9nyPZEzK1y($1L!0D8<^K@^mWiU0?afbW}|7TGdq7IV~0`E?2B}3JDZ)UM="
        "0LbDMQh`(z)SxHyGYSVa-pLwD78U`#(1R=L+r;X|Xyd5)X#@P-"
        "zWk%34a<q9z))lp7%tZ=tu<`V|#pJeX5gVs?li5ry?Z7nKMtMSZG)i?mrtCE<uH6s8=Y%O3HfD;}}RQ50J6#MO>jV{<#817%l#GI3f(;GBF@mf{}"
        "m&aNd%O&@}eQ6DT^Xtv0f4(xi=2`cIg+`2gAsw-TJnT^dg%M^J1su8^+@)DgjAgIP5%c;2Vqm}o(HMc`KGC}cr2J66t7%HKQyw#zdQz+;Q%>VZrb"
        "{YYNMm1$muvkp3DOkY0&r(rPpk89wQ|bhuGsCFep{4*ny_m2iuJqsu1ukjzJ-"
        ">kRzbT7j2lIpmusssW59ZX(_Oh#vhE8=*2u@z_dr@Pn(1$170}*#uR>{>shrz(XC~+C%c}-Y@gDU3wp#1;E0XV`1f$|gSxctcpbz9ru>lv1svtq-"
        "b<(4Mhz*4Yjbesy7~oV@Wj(}fOi&(D9w}%rbnV7a8+4N?a<kD$Uw#w<x>HU{j|0Qf2I`OgMgJbW)tKRWj`P~_);=hr{08nHhwB|kzo79)ohJQBw2"
        "Rz8gPO*U-L2Bdr9%6Veg>S-&*zKTeXi0@5~l$VK+U2Xkum1MBQ-Rdfe&rQU~)hW#|-"
        "<hwtU5^8O8cbFU}(9K`V!$WK4s6_R)v+sa;N7h9lKIs}Iy#8M9yqS1QMh!-"
        "XnLC{hBHs||sTp?wlPR80gl08l0H^0y3{5RSFthYAhn@GIp&Q8o(kSZ`m&VHoeF$j=hEw;?4IVwb=#lqVp;{(sY;hXn"
    ),
    "2.3.3": (
        "c-oa#Pj4GV6!)&}Bu-6eNJ#?<4H6e~s3k-"
        "RNJT1%168|pTeatCG~OM1R$1>ZyR%I!5w$raG;|O`9WMO<oVfwtA~|s9k`KTI^;X`@&eryJje?c<&3fnk|GnSL<J!-"
        "^%~#ZiFGe_Uang3en6!H_9uUDBTbSXm)cTqD@IdT~7O$Z}KNkGT_;xQ~Bo45jv<EoAeG(^vH#hyz*}0QFgL;cEYZc^s-"
        "DIRA_?svVBG1|J3F=BE*v;3*?c+Gc!=#<C*bDjyp2A&-"
        "U_;6W>bDKK!A=L!@Bx7knCB#;h#M%vNSP4)LNrwBZHPhe1r(Enfd~B>qNH!}1vZQb>V+}FzK5kD-"
        "t=+YCnyU*9E$tGs#=Cs*;WdTXo$LLucz|lbKTVQnHNA}jqZ?<+;qpNDoy!MSLs^k{fhoHwOlI5$?Z!g&rg0mJvco$`Tg{9Cro1x{N+2ywy>F6@fq"
        "aG1O$I~dI_NrS>d+SR)~657e?HC^dj?q1jf=XeUH}@-*e<9s{%P2-"
        "^uJv`AskI<v<p_jg*f;3VG{7H=(pn7=XXjVbVce?F2^<ldgzWIfSZog|yX@rmgCcpdDU!^Qg?bpNZoq+50Ltz7@7@-"
        "+l=n^<~{)qI(QIfIn_v!NC?3f*X#&+k(JLdL4|KlQGjx`la+tZ%+FCnw#E)x6cdSD$-kLWmb1*PRmB#t<0Y(k#SCcy)l23lzPi-|8*miFCJ-UUub"
        "Vtt5)d9(!`WyZ5MnMp=h`_nlpP#jm#!?c8Du0eWe5}4rZhu#-"
        "4+H08D4>>6y5_HuHDQmOlAA<EpB4i57xi9Mj6NrpIzVH!t_COwx%<_P|INCjjGl6p&qXOa2DR^qAN4wW1>zC`!<U%qU%?ms)hWY+g-"
        "3ubfv~4bw_Kdxn-~>CBnw!;%rBAJcXEX<<-"
        "!Es#8Er}B}{hOtXxDD5$f&}#sw9%gX+XsrGB%GzJ8yfkE|_hCk4yK7dx0Iq$$TGBZv3Sr(rR`!i8z24AMH|m^>;m!zxwbvkMw>l>9n1Zaq#E}Bsb"
        "U6QSTMFOb|MAK5v$u;f%euwus27uOgblRjV22XuGOwk9$ABEbT#{ymsarF}!q96u$(3Zj&S#<_qhTQUrHO$Vcu68L!%cewRAe*D`*-"
        "(PvCf{LXWTsfNzqN-rWtFtFqLIoEKfjrHuC1JY?a5U2c(WNY?r!sp>{?A!__e+0__1#cEnWhb<Y7lBO|pxq2`*C=|6lPqFui>Hq1#XbDp*43LR+j"
        "i^U`QRdW9^sILxIIe<oe%9%Me_lfP*J?PA|0j6jAh`SD<H^zf!Li&G7e~^*>cn)%DOpwdHO5uoDEFA2YwOrM5P0J6oY-xG5G^wjmn0U+!gMjog^B"
        "$7Kb7RS+F?NZIhe62T=uHEb9q8xeFZxSHUG(WBq32{A<Df6u_`Z~53=Dd3LjYe4&U0Ra>r@0ilnVk2L)j#X6Ke=C1D7I+>imL<283Y+b2zu_m@&9"
        "I?#nw&&&PeWyo`N6+)a?1MsN**G?9<H1g?!w0C(+w0TJx*I{"
    ),
}


def frame(**columns) -> pd.DataFrame:
    return pd.DataFrame({"position": POSITIONS, "description": DESCRIPTIONS, **columns})


def written(tmp_path, value, protocol: int = 4, name: str = "table.pkl") -> pathlib.Path:
    path = tmp_path / name
    data = value if isinstance(value, bytes) else pickle.dumps(value, protocol=protocol)
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def refused(path) -> str:
    """The one sentence with which a file is refused."""
    with pytest.raises(InputError) as caught:
        read_pickle_frame(path)
    sentence = str(caught.value)
    assert "\n" not in sentence and str(path) in sentence and sentence.endswith(".") and len(sentence) < 700
    return sentence


FRAMES = {
    "texts": frame(),
    "objects": frame().astype(object),
    "one row": frame().iloc[:1],
    "slice": frame().iloc[1:],
    "sorted": frame().sort_values("position", ascending=False),
    "other index": frame().set_index(pd.Index([9, 8, 7])),
    "index of texts": frame().set_index(pd.Index(["p", "q", "r"])),
    "index of dates": frame().set_index(pd.date_range("2024-01-01", periods=3)),
    "two levels": frame(a=[1, 2, 3], b=["x", "y", "z"]).set_index(["a", "b"]),
    "fortran": pd.DataFrame(
        np.array([["a", "b"], ["c", "d"]], dtype=object), columns=["position", "description"], copy=False
    ),
    "fortran numbers": pd.DataFrame(np.array([[1, 2], [3, 4], [5, 6]]), columns=["a", "b"], copy=False),
    "blocks": frame(a=1).assign(b="x").assign(c=2.5).drop(columns="a"),
    "numbers": frame(i=[1, 2, 3], f=[0.5, 2.0, -1.0], b=[True, False, True], small=np.array([1, 2, 3], "int8")),
    "big endian": frame(i=np.array([1, 2, 3], ">i4")),
    "lists": frame(negatives=[["a", "b"], ["c"], []]),
    "lists of one length": frame(negatives=[["a", "b"], ["c", "d"], ["e", "f"]]),
    "numbered columns": pd.DataFrame([["a", "b"], ["c", "d"]]),
    "stacked": pd.concat([frame(), frame()]),
    "empty": frame().iloc[:0],
    "python strings": frame().astype(pd.StringDtype("python")),
    "arrow strings": frame().astype(pd.StringDtype("pyarrow")),
    "arrow slice": frame().astype(pd.StringDtype("pyarrow")).iloc[1:],
    "categories": frame().astype("category"),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", FRAMES)
def test_frames_come_back_as_they_were(tmp_path, name, protocol):
    table = FRAMES[name]
    read = read_pickle_frame(written(tmp_path, table, protocol))
    assert list(read.columns) == [str(column) for column in table.columns]
    for column, original in zip(read.columns, table.columns, strict=True):
        assert read[column].tolist() == table[original].tolist()
        assert read[column].dtype.isnative
    assert read.index.equals(pd.RangeIndex(len(table)))


@pytest.mark.parametrize("version", OLDER)
def test_frames_of_older_pandas(tmp_path, version):
    read = read_pickle_frame(written(tmp_path, zlib.decompress(base64.b85decode(OLDER[version]))))
    assert read["position"].tolist() == ["Кассир", "Courier", None]
    assert read["negatives"].tolist() == [["a", "b"], ["c"], []]
    assert read["id"].tolist() == [7, 8, 9] and read["rate"].iloc[[0, 2]].tolist() == [0.5, 2.0]
    assert read["grade"].tolist() == ["u", None, "v"] and read["note"].tolist() == ["x", None, "ё"]
    assert read["count"].tolist() == [1, None, 3]
    assert all(isinstance(day, Unread) for day in read["day"])
    assert version == "1.0.5" or read["arrow"].tolist() == ["x", None, "ё"]


@pytest.mark.parametrize("protocol", range(6))
def test_every_missing_value_becomes_none(tmp_path, protocol):
    cells = np.array(["x", None, float("nan"), pd.NA, pd.NaT, np.float64("nan")], dtype=object)
    table = pd.DataFrame({"a": cells})
    for kind in (pd.StringDtype("python"), pd.StringDtype("pyarrow"), "category"):
        table[str(kind) + repr(kind)] = pd.array(["x", *[None] * 5], dtype=kind)
    table["Int64"] = pd.array([1, *[None] * 5], dtype="Int64")
    read = read_pickle_frame(written(tmp_path, table, protocol))
    for column in read:
        assert read[column].tolist() == [1 if column == "Int64" else "x", *[None] * 5]


def test_no_time_of_older_pandas(tmp_path):
    path = written(tmp_path, b"\x80\x02]}X\x01\0\0\0acpandas._libs.tslibs.nattype\n__nat_unpickle\nN\x85Rsa.")
    assert read_pickle_frame(path)["a"].tolist() == [None]


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_values_become_plain(tmp_path, protocol):
    cells = [np.str_("ю"), np.float64(0.5), np.int64(4), np.bool_(True), ("a", np.str_("b")), np.array(["c", "d"])]
    cells.append(np.array(["e", None], dtype=object))
    read = read_pickle_frame(written(tmp_path, pd.DataFrame({"a": np.array([*cells, "z"], dtype=object)}), protocol))
    assert read["a"].tolist() == ["ю", 0.5, 4, True, ["a", "b"], ["c", "d"], ["e", None], "z"]
    assert type(read["a"][0]) is str and type(read["a"][2]) is int


@pytest.mark.parametrize("protocol", range(2, 6))
def test_dates_and_the_like_are_passed_by(tmp_path, protocol):
    day = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    table = frame(
        day=pd.to_datetime(["2024-01-01"] * 3),
        local=pd.to_datetime(["2024-01-01"] * 3).tz_localize("UTC"),
        span=pd.to_timedelta([1, 2, 3], unit="s"),
        mixed=np.array([pd.Timestamp("2024-01-01"), pd.Timedelta("1s"), day.date()], dtype=object),
        more=np.array([day, decimal.Decimal("1.5"), np.datetime64("2024-01-01")], dtype=object),
        days=[np.array(["2024-01-01"], dtype="M8[s]"), "x", "y"],
    )
    read = read_pickle_frame(written(tmp_path, table, protocol))
    assert read["description"].tolist() == DESCRIPTIONS
    for column in ("day", "local", "span", "mixed", "more"):
        assert all(isinstance(cell, Unread) for cell in read[column]), column
    assert read["days"].tolist()[1:] == ["x", "y"]


def test_a_table_of_dates_only_has_no_rows_to_use(tmp_path):
    table = pd.DataFrame({"day": pd.to_datetime(["2024-01-01"])})
    assert list(read_pickle_frame(written(tmp_path, table)).columns) == ["day"]


def test_arrow_columns_that_are_no_texts_are_passed_by(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    table = frame(
        n=pd.array([1, 2, 3], dtype=pd.ArrowDtype(pyarrow.int64())),
        t=pd.array(POSITIONS, dtype=pd.ArrowDtype(pyarrow.string())),
    )
    read = read_pickle_frame(written(tmp_path, table))
    assert read["t"].tolist() == POSITIONS and all(isinstance(cell, Unread) for cell in read["n"])


@pytest.mark.parametrize("protocol", range(6))
def test_a_named_index_becomes_a_column(tmp_path, protocol):
    read = read_pickle_frame(written(tmp_path, frame().set_index("position"), protocol))
    assert list(read.columns) == ["position", "description"] and read["position"].tolist() == POSITIONS
    numbered = frame().rename_axis("id")
    assert read_pickle_frame(written(tmp_path, numbered, protocol))["id"].tolist() == [0, 1, 2]
    twice = frame().set_index("position", drop=False)
    assert list(read_pickle_frame(written(tmp_path, twice, protocol)).columns) == ["position", "description"]


@pytest.mark.parametrize("protocol", range(6))
def test_lists_of_dicts_and_dicts_of_lists(tmp_path, protocol):
    rows = [{"query": "a", "positive": "b"}, {"query": "c", "negatives": ["d"]}]
    read = read_pickle_frame(written(tmp_path, rows, protocol))
    assert read["positive"].tolist() == ["b", None] and read["negatives"].tolist() == [None, ["d"]]
    read = read_pickle_frame(written(tmp_path, {"query": ["a", "c"], "positive": ("b", "d")}, protocol))
    assert read["query"].tolist() == ["a", "c"] and read["positive"].tolist() == ["b", "d"]


def test_gzip_and_a_large_table(tmp_path):
    table = pd.DataFrame({"position": [f"title {i}" for i in range(20_000)], "description": ["same"] * 20_000})
    path = tmp_path / "table.pkl.gz"
    table.astype(object).to_pickle(path)
    read = read_pickle_frame(path)
    assert read["position"].tolist() == table["position"].tolist() and set(read["description"]) == {"same"}


class Call:
    """Pickles as a call of `function`, which unpickling would carry out."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class State:
    """Pickles with a state, which unpickling would set attribute by attribute."""

    def __init__(self, state):
        self.__dict__ = state


def attacks(mark: pathlib.Path) -> dict[str, object]:
    """Objects whose unpickling makes the file `mark`, by how they do it."""
    code = f"open({str(mark)!r}, 'w').close()"
    shell = Call(os.system, f"touch {mark}")
    return {
        "os.system": shell,
        "subprocess": Call(subprocess.Popen, ["touch", str(mark)]),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "compile": Call(compile, code, "x", "exec"),
        "open": Call(open, str(mark), "w"),
        "getattr": Call(getattr, "x", "upper"),
        "import": Call(__import__, "os"),
        "partial": Call(functools.partial, os.system, f"touch {mark}"),
        "methodcaller": Call(operator.methodcaller, "touch"),
        "attrgetter": Call(operator.attrgetter, "a"),
        "path": Call(pathlib.Path.touch, mark),
        "numpy.load": Call(np.load, str(mark)),
        "numpy.fromfile": Call(np.fromfile, str(mark)),
        "numpy.memmap": Call(np.memmap, str(mark), "u1", "w+"),
        "pandas.read_pickle": Call(pd.read_pickle, str(mark)),
        "pandas.eval": Call(pd.eval, "1"),
        "pandas.read_csv": Call(pd.read_csv, str(mark)),
        "pickle.loads": Call(pickle.loads, pickle.dumps(1)),
        "ordered": collections.OrderedDict(a=1),
        "counter": collections.Counter("a"),
        "in a list": [{"query": "a", "positive": shell}],
        "in a dict": {"query": ["a"], "positive": [shell]},
        "in a cell": pd.DataFrame({"query": ["a"], "positive": np.array([shell], dtype=object)}),
        "in a list cell": pd.DataFrame({"query": ["a"], "negatives": [["x", shell]]}),
        "as a column name": pd.DataFrame([["a"]], columns=np.array([shell], dtype=object)),
        "in the index": pd.DataFrame({"query": ["a"]}, index=np.array([shell], dtype=object)),
        "in a state": State({"a": shell}),
        "in the attributes": attributed(shell),
        "as a key": [{Call(str, "k"): 1}],
    }


def attributed(value) -> pd.DataFrame:
    table = frame()
    table.attrs["x"] = [value]
    return table


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("name", attacks(pathlib.Path("mark")))
def test_attacks_run_nothing(tmp_path, name, protocol):
    mark = tmp_path / "mark"
    path = written(tmp_path, attacks(mark)[name], protocol)
    sentence = refused(path)
    assert not mark.exists()
    assert "it asks for" in sentence and "nothing was run" in sentence


def test_the_forbidden_name_is_given(tmp_path):
    assert f"{os.system.__module__}.system" in refused(written(tmp_path, Call(os.system, "true")))
    assert "builtins.eval" in refused(written(tmp_path, Call(eval, "1")))
    assert "functools.partial" in refused(written(tmp_path, functools.partial(print)))
    assert "Series" in refused(written(tmp_path, pd.Series(["a"])))


# Pickles written by hand, for what the pickler does not write. c = global, R = call, b = build, . = stop.
BY_HAND = {
    "allowed name, foreign module": b"cos\nDataFrame\n.",
    "dotted way out of an allowed module": b"\x80\x04\x8c\x06pandas\x8c\x10io.common.os.walk\x93.",
    "dotted way through an allowed name": b"\x80\x04\x8c\x06pandas\x8c\x16DataFrame.to_pickle.__globals__\x93.",
    "state on a global": b"cpandas\nDataFrame\n}S'x'\nI1\nsb.",
    "state on a global, unicode": b"\x80\x04cpandas\nDataFrame\n}\x8c\x01xK\x01sb.",
    "state on a list": b"\x80\x04]}\x8c\x01xK\x01sb.",
    "class with a state of attributes": b"\x80\x04cnumpy\nndarray\nN}\x8c\x0b__setattr__K\x01s\x86b.",
    "call of a call": b"\x80\x04cnumpy\ndtype\n\x8c\x02O8\x85R)R.",
    "call of a text": b"\x80\x04\x8c\x04exec\x8c\x01x\x85R.",
    "arguments that are no tuple": b"\x80\x04cnumpy\ndtype\n]R.",
    "global without a name": b"\x80\x04K\x01K\x02\x93.",
    "instance": b"(S'touch'\nios\nsystem\n.",
    "object": b"\x80\x02(cos\nsystem\n\x8c\x05touch\x86o.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent": b"Pabc\n.",
    "persistent, binary": b"\x80\x02\x8c\x01aQ.",
    "buffer outside": b"\x80\x05\x97.",
    "keyword call": b"\x80\x04cnumpy\ndtype\n)}\x92.",
    "set": b"\x80\x04\x8f.",
    "python 2 text": b"S'abc'\n.",
    "only a name": b"cpandas\nDataFrame\n.",
    "frame without a state": b"cpandas\nDataFrame\n)\x81.",
    "number": b"K\x01.",
    "no end": b"\x80\x04]",
    "end at once": b".",
    "stack runs out": b"\x80\x04\x86.",
    "mark without items": b"\x80\x04t.",
    "unknown memory": b"\x80\x04h\x05.",
    "odd items": b"\x80\x04}(\x8c\x01au.",
    "key that is a tuple": b"\x80\x04})K\x01s.",
    "list without a list": b"\x80\x04K\x01K\x02a.",
    "dict without a dict": b"\x80\x04K\x01K\x02K\x03s.",
    "no instruction": b"\xff\xff\xff",
    "a text": "Должность,Описание\nкассир,касса\n".encode(),
    "protocol of tomorrow": b"\x80\xff\x8c\x01a.",
    "a dict of texts": pickle.dumps({"a": "b"}),
    "a list of lists": pickle.dumps([["a", "b"]]),
    "an array": pickle.dumps(np.array(["a"])),
    "uneven columns": pickle.dumps({"a": ["x"], "b": []}),
    "levels of names": pickle.dumps(pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")]))),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_odd_pickles_are_refused_in_one_sentence(tmp_path, name):
    refused(written(tmp_path, BY_HAND[name]))


def test_cells_that_are_no_texts_are_passed_by(tmp_path):
    cells = [{"x": 1}, b"x", [["x"]], [("x",)], [np.zeros((2, 2))], ["y", 1]]
    read = read_pickle_frame(written(tmp_path, pd.DataFrame({"a": ["t"] * 6, "b": cells})))
    assert read["a"].tolist() == ["t"] * 6 and read["b"].tolist()[5] == ["y", 1]
    assert all(isinstance(cell[0] if isinstance(cell, list) else cell, Unread) for cell in read["b"].tolist()[:5])
    with pytest.raises(InputError, match='row 1, column "b" holds a mapping where a text belongs'):
        read_pairs(tmp_path / "table.pkl", "a", "b")
    assert "EMPTY_SET" in refused(written(tmp_path, pd.DataFrame({"b": [{"x"}]})))


@pytest.mark.parametrize("protocol", (2, 5))
def test_categories_of_any_kind_do_not_stop_the_reading(tmp_path, protocol):
    table = frame(
        whole=pd.Categorical([3, 1, None]),
        half=pd.Categorical([0.5, 1.0, 0.5]),
        yes=pd.Categorical([True, False, True]),
        counted=pd.Categorical.from_codes([0, 1, 0], categories=pd.RangeIndex(2)),
        cut=pd.cut([1, 5, 9], 3),
        day=pd.Categorical(pd.to_datetime(["2024-01-01"] * 3)),
        month=pd.period_range("2024-01", periods=3, freq="M"),
    )
    read = read_pickle_frame(written(tmp_path, table, protocol))
    assert read["whole"].tolist() == [3, 1, None] and read["half"].tolist() == [0.5, 1.0, 0.5]
    assert read["yes"].tolist() == [True, False, True] and read["counted"].tolist() == [0, 1, 0]
    assert all(isinstance(cell, Unread) for name in ("cut", "day", "month") for cell in read[name])
    assert read["description"].tolist() == DESCRIPTIONS


def test_what_is_repeated_by_reference_counts_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "LIMIT", 10_000_000)
    row = {"query": "a" * 100, "positive": "b"}
    wide = {f"c{number}": "x" for number in range(1000)}
    cell, text = ["x"] * 1000, "x" * 100_000
    array = np.array(["x"] * 1000, dtype=object)
    for value in (
        [row] * 200_000,
        [wide] * 20_000,
        [{"a": cell}] * 20_000,
        {"a": [cell] * 20_000},
        {"a": [text] * 1000},
        pd.DataFrame({"a": pd.Series([text] * 1000, dtype=object)}),
        pd.DataFrame({"a": pd.Categorical.from_codes([0] * 1000, categories=[text])}),
        {"a": [array] * 20_000},
    ):
        path = written(tmp_path, value)
        assert path.stat().st_size < 2_000_000
        assert "unpacks to more than 10,000,000 bytes" in refused(path) and "--trustfile" in refused(path)
    assert len(read_pickle_frame(written(tmp_path, [row] * 50_000))) == 50_000
    assert len(read_pickle_frame(written(tmp_path, [row] * 200_000), trustfile=True)) == 200_000


def test_more_columns_than_a_table_has(tmp_path):
    wide = {f"c{number}": ["x"] for number in range(10_001)}
    assert "has 10,001 columns" in refused(written(tmp_path, wide))
    assert "has 10,001 columns" in refused(written(tmp_path, pd.DataFrame(wide)))
    assert "has 10,001 columns" in refused(written(tmp_path, [dict.fromkeys(wide, "x")]))


def made(shape, code, cells) -> bytes:
    """A pickle of one cell that is a numpy array of chosen shape, dtype and content."""

    class Array:
        def __reduce__(self):
            reconstruct = np.array([]).__reduce__()[0]
            return reconstruct, (np.ndarray, (0,), b"b"), (1, shape, Kind(), False, cells)

    class Kind:
        def __reduce__(self):
            return np.dtype, (code, False, True), (3, "<", None, None, None, -1, -1, 0)

    return pickle.dumps([{"a": Array()}])


@pytest.mark.parametrize(
    "parts",
    [
        ((10**12,), "i8", b"1234"),
        ((1,), "i8", b"123"),
        ((-1, 0), "i8", b""),
        ((10**12,), "O8", ["a"]),
        ((1,), "O8", 5),
        ((1,), "V8", b"12345678"),
        ((1,), "U999999999", b"1234"),
        ((1,), "U0", b""),
        ((1,), "i3", b"123"),
        ((1,), "i8", "Ω" * 8),
        ("ab", "i8", b"12345678"),
    ],
)
def test_arrays_of_wrong_sizes(tmp_path, parts):
    refused(written(tmp_path, made(*parts)))


def test_a_made_array_is_read(tmp_path):
    assert read_pickle_frame(written(tmp_path, made((1,), "i8", b"\1" + b"\0" * 7)))["a"].tolist() == [[1]]


@pytest.mark.parametrize(
    ("find", "replace"), [(b"\x0c\0\0\0\0\0\0\0", b"\xff\xff\xff\xff\0\0\0\0"), (b"\x0c\0\0\0\0\0\0\0", b"\xff" * 8)]
)
def test_arrow_offsets_outside_the_texts(tmp_path, find, replace):
    data = pickle.dumps(frame().astype(pd.StringDtype("pyarrow")), protocol=5)
    assert data.count(find) == 1
    assert "offsets" in refused(written(tmp_path, data.replace(find, replace)))


def test_a_deeply_nested_tuple_as_a_key(tmp_path):
    """Hashing it overflows the stack of the interpreter: `pickle.loads` ends the process."""
    refused(written(tmp_path, b"\x80\x02}N" + b"\x85" * 100_000 + b"Ns."))


def test_deep_and_circular_values(tmp_path):
    refused(written(tmp_path, b"\x80\x02]N" + b"\x85" * 100_000 + b"a."))
    circle: list = ["x"]
    circle.append(circle)
    assert read_pickle_frame(written(tmp_path, [{"a": circle}]))["a"][0] == ["x", Unread("list inside a list")]


def test_memory_is_not_taken_for_a_promise(tmp_path):
    """Small files that name huge sizes: a memo of 2^32 places, a text of 2^60 bytes, 10^8 columns or rows."""
    stop, long = b"\x8c\x04stop\x94K\x01", b"\x8c\x04stop\x94\x8a\x06" + (10**8).to_bytes(6, "little")
    day = pd.Timestamp("2024-01-01")
    many_columns, many_rows = (
        pickle.dumps(table, protocol=4) for table in (pd.DataFrame([[day]]), pd.DataFrame({"a": [day]}))
    )
    only_rows = pickle.dumps(
        pd.DataFrame(index=pd.RangeIndex(1, name="id"), columns=pd.Index([], dtype=object)), protocol=4
    )
    places = b"K\x00K\x01K\x01\x87"
    assert many_columns.count(places) == only_rows.count(stop) == 1
    assert many_columns.count(stop) == many_rows.count(stop) == 1
    tables = [
        b"\x80\x02Nr" + struct.pack("<I", 2**32 - 1) + b"0].",
        b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"abc",
        b"\x80\x04\x96" + struct.pack("<Q", 2**60) + b"abc",
        b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b".",
        many_columns.replace(stop, long),
        many_columns.replace(stop, long).replace(places, places[:2] + long[7:] + places[4:]),
        many_rows.replace(stop, long),
        only_rows.replace(stop, long),
    ]
    tracemalloc.start()
    try:
        for data in tables:
            with contextlib.suppress(InputError):
                read_pickle_frame(written(tmp_path, data))
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    path = written(tmp_path, b"\0" * 1_000_000, name="bomb.pkl.gz")
    assert path.stat().st_size < 5_000 and unpacking.LIMIT == 2**31
    monkeypatch.setattr(unpacking, "LIMIT", 99_999)
    with pytest.raises(InputError, match="unpacks to more than 99,999 bytes"):
        content(path)
    assert len(content(path, trustfile=True)) == 1_000_000
    assert content(written(tmp_path, b"a" * 1000, name="small.gz")) == b"a" * 1000


def test_compressed_files_that_do_not_say_so(tmp_path):
    data = pickle.dumps(frame())
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("table.pkl", data)
    for packed in (gzip.compress(data), bz2.compress(data), lzma.compress(data), archive.getvalue()):
        assert "archive" in refused(written(tmp_path, packed))


def test_broken_gzip(tmp_path):
    whole = gzip.compress(pickle.dumps(frame()))
    for number, data in enumerate([whole[:-9], whole[:30] + b"\0\0\0\0" + whole[34:], b"plain text", whole + b"tail"]):
        path = tmp_path / f"{number}.pkl.gz"
        path.write_bytes(data)
        assert "gzip" in refused(path)


def test_missing_empty_and_folder(tmp_path):
    assert "does not exist" in refused(tmp_path / "none.pkl")
    assert "is empty" in refused(written(tmp_path, b""))
    assert "is empty" in refused(written(tmp_path, b" \n", name="blank.pkl.gz"))
    assert "cannot be read" in refused(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_pickle_frame(str(tmp_path / "a\0b"))
    with pytest.raises(InputError, match="cannot be read"):
        read_pickle_frame(tmp_path / ("a" * 300))


def test_odd_texts_survive(tmp_path):
    texts = ["a\ud83d", "b\0c", "", "\u2028", "x" * 70_000]
    read = read_pickle_frame(written(tmp_path, [{"a\udc00": text} for text in texts]))
    assert read["a\udc00"].tolist() == texts


def test_names_in_sentences_are_short_and_printable(tmp_path):
    sentence = refused(written(tmp_path, b"cevil\x1b[2J\nna\x07me\n."))
    assert "\x1b" not in sentence and "\x07" not in sentence
    assert len(refused(written(tmp_path, b"c" + b"a" * 10_000 + b"\nb\n."))) < 600
    with pytest.raises(InputError, match="…"):
        read_pairs(
            written(tmp_path, pd.DataFrame({"long name\n" * 50: [{}], "b": ["x"]})), ("long name\n" * 50).strip(), "b"
        )


def test_a_number_beyond_reason(tmp_path):
    read = read_pickle_frame(written(tmp_path, [{"a": 10**5000}, {"a": 7}]))
    assert isinstance(read["a"][0], Unread) and read["a"][1] == 7


def test_reading_imports_nothing(tmp_path):
    """Names of the allow-list are not looked up either."""
    path = written(tmp_path, b"cpandas.no.such.module\nDataFrame\n)\x81}b.")
    assert "not a readable pickle" in refused(path)


SEEDS = [
    pickle.dumps(FRAMES[name], protocol)
    for name in ("texts", "objects", "lists", "categories", "numbers")
    for protocol in (2, 5)
]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(data=st.data())
def test_any_damage_gives_a_table_or_an_input_error(tmp_path, data):
    if data.draw(st.booleans()):
        raw = data.draw(st.binary(max_size=300))
    else:
        raw = bytearray(data.draw(st.sampled_from(SEEDS)))
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(raw) - 1))
            raw[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        assert isinstance(read_pickle_frame(written(tmp_path, bytes(raw))), pd.DataFrame)
    except InputError as error:
        assert "\n" not in str(error)
