# A month in the life of campaigns, under a clock that is moved from one poll to the next: they happen when the tiers say and
# at no other time (R49-R55, D1-D3, N10), and after each of them every figure and every list equals what the simulator knows to
# have happened, and every status what plain SQL says (R39-R45, R100-R106, D4, D17); test/month/reference.sql compares. What people do is
# generated; meanwhile some change their address, leave, or are erased.
#
#   MONTH_SEED='1 2 3'      other seeds than these
#   MONTH_WHOLE=1           each poll; else of each tier the first ones and the last, and those between are missed (D3)

use strict;
use warnings;
use JSON::PP;
use List::Util qw(first max min shuffle);
use McCrm;
use McModel::Session;
use McTest;
use POSIX ();
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;
use Time::HiRes ();
use Time::Local qw(timegm);

my $people = 90;
my $days = 34;
my ($crm, $sim, $db, $offset, $since, %campaigns);
my $json = JSON::PP->new->utf8->canonical;

# ---- the clocks: ours and Mailchimp's, which show the same to the millisecond. Instants are seconds since 1970.

sub now { return Time::HiRes::time() + $offset }

# To an instant, or to where we are if that is later.
sub move
{
	my ($at) = @_;
	$offset = max($offset, sprintf '%.3f', $at - Time::HiRes::time());
	$sim->post('/_sim/clock', { offset => $offset + 0 });
	$db->query("SET mailchimp_sync.clock_offset = '$offset s'");
}

sub stamp { my ($at) = @_; return POSIX::strftime('%Y-%m-%dT%H:%M:%S+00:00', gmtime $at) }
sub seconds { my ($column) = @_; return "(extract(epoch FROM $column) * 1000000)::bigint / 1000000.0" }

# ---- when a campaign is to be asked, by the words of R50-R55

sub month_after
{
	my ($at) = @_;
	my ($second, $minute, $hour, $day, $month, $year) = gmtime $at;
	($month, $year) = $month == 11 ? (0, $year + 1) : ($month + 1, $year);
	my ($last) = first { eval { timegm(0, 0, 0, $_, $month, $year) } } 31, 30, 29, 28;
	return timegm($second, $minute, $hour, min($day, $last), $month, $year) + $at - int $at;
}

my ($minute, $hour, $day) = (60, 3600, 86400);

# the tiers of a campaign: where each begins, and how far apart polls are
sub tiers
{
	my ($born) = @_;
	return ([ $born, 10 * $minute ], [ $born + 2 * $hour, $hour ], [ $born + $day, 3 * $hour ], [ $born + 7 * $day, 6 * $hour ],
		[ $born + 14 * $day, 12 * $hour ], [ month_after($born), $day ]);
}

sub tier_at { my ($c, $at) = @_; return scalar grep { $_->[0] <= $at } @{ $c->{tiers} } }
sub spacing { my ($c) = @_; return $c->{tiers}[ tier_at($c, $c->{last}) - 1 ][1] }
sub due { my ($c) = @_; return $c->{wanted} // $c->{last} + spacing($c) }

# When it is to be asked next: of each tier the first polls and the last one are of interest, two of the first campaign and one
# of the others.
sub next_step
{
	my ($c) = @_;
	return now() + 60 unless $c->{sent};
	my $tier = tier_at($c, $c->{last});
	my $end = $tier < 6 ? $c->{tiers}[$tier][0] : $c->{end};
	return due($c) if $ENV{MONTH_WHOLE} || $c->{polls}{$tier} < ($c->{name} eq 'First' ? 2 : 1);
	return max(due($c), $end - 0.9 * spacing($c));
}

# ---- what people do: most of it in the first hours, some of it weeks later

my @reasons = ('I no longer want to receive these emails', 'I never signed up for this mailing list', 'None given');
my @links = map { "https://www.example.org/$_" } '', 'news', 'a?b=1&c=%20d', "it's";

sub happens_at { my ($c) = @_; return int($c->{sent} + 1 + $days * $day * rand() ** 8) }

sub one_person
{
	my ($c) = @_;
	my $kind = rand;
	my $at = happens_at($c);
	my $machine = rand() < 0.2 ? [ { action => 'open', at => int($c->{sent}) + 2 + int rand 8, proxy => JSON::PP::true } ] : [];

	return @$machine, { action => 'hard', at => $at } if $kind < 0.04;
	return @$machine, { action => 'soft', at => $at } if $kind < 0.08;
	return { action => 'soft', at => $at }, { action => 'hard', at => $at + int rand 1e6 } if $kind < 0.12;
	my @events = @$machine;
	# repeated, or twice in one second
	push @events, ({ action => 'open', at => happens_at($c) }) x (rand() < 0.2 ? 2 : 1) for 1 .. (rand() < 0.5 ? 1 + int rand 4 : 0);
	# with or without an open, before it or after
	push @events, ({ action => 'click', at => happens_at($c), url => $links[ rand @links ] }) x (rand() < 0.2 ? 2 : 1)
	  for 1 .. (rand() < 0.3 ? 1 + int rand 3 : 0);
	push @events, { action => 'click', at => $at, url => $links[ rand @links ], bot => JSON::PP::true } if rand() < 0.1;
	push @events, { action => 'unsubscribe', at => happens_at($c), reason => $reasons[ rand @reasons ] } if rand() < 0.06;
	push @events, { action => 'abuse', at => happens_at($c) } if rand() < 0.03;
	return @events;
}

sub engage
{
	my ($c) = @_;
	my @events = map { my $email = $_; map { { %$_, email => $email } } one_person($c) } @{ $c->{emails} };
	$sim->post('/_sim/events', { campaign => $c->{mailchimp_id}, events => [ map { { %$_, at => stamp($_->{at}) } } @events ] });
	$db->query("INSERT INTO month.event SELECT (SELECT count(*) FROM month.event) + ordinality, $c->{id}, email, action, to_timestamp(at), url, reason, coalesce(proxy, bot, false)
		FROM ROWS FROM (jsonb_to_recordset(" . literal($json->encode(\@events)) . ') AS (email text, action text, at double precision, url text, reason text, proxy boolean, bot boolean)) WITH ORDINALITY');
	$c->{instants} = [ sort { $a <=> $b } map { $_->{at} } @events ];
}

sub literal { my ($text) = @_; $text =~ s/'/''/g; return "'$text'" }

# ---- the engine does what is due, and what it asks is held against the tiers

my %seen;

sub journal
{
	my @entries = $sim->journal(since => $since);
	$since = $entries[-1]{n} if @entries;
	return @entries;
}

sub run
{
	my ($begin, $end) = (now(), do { $db->query('CALL mc_run()'); now() });
	my %asked;
	$asked{ $_->{path} =~ m{^/reports/(\w+)} ? $1 : '' }{ $_->{route} . ($_->{query}{filter_bots} ? ' without machines' : '') }{ $_->{at} }++
	  for grep { $_->{route} =~ m{^GET /reports} } journal();
	my %shown = map { my @row = split /\|/; $row[0] => \@row } split /\n/, $db->query('SELECT campaign_id, tier, '
		. join(', ', map { seconds($_) } qw(age last_polled_at next_poll_at)) . ' FROM mc_poll_schedule');
	my @polled;
	for my $c (values %campaigns)
	{
		next unless $c->{sent} || begins($c);
		my $reports = delete $asked{ $c->{mailchimp_id} };
		my (undef, $tier, $age, $last, $next) = @{ $shown{ $c->{id} } };
		my $due = due($c);
		my $what = sprintf '%s, %s old, due %s', $c->{name}, age($begin - $c->{born}), stamp($due);

		if (!$reports)
		{
			$seen{"missed: $what"}++ if $due <= $begin;
			next;
		}
		my @at = map { iso_seconds($_) } keys %{ $reports->{'GET /reports/{campaign_id}'} };
		$seen{"early: $what, asked " . stamp($at[0] // 0)}++ if @at != 1 || $at[0] < int($due - 0.01);
		$seen{"more than once: $what"}++ if grep { $_ != 1 } map { values %$_ } @$reports{ grep { !/activity/ } keys %$reports };
		$seen{"last_polled_at: $what, $last"}++ unless $last >= $at[0] && $last <= $end;
		@$c{qw(last asked wanted)} = ($last, $at[0], undef);
		$c->{polls}{ tier_at($c, $last) }++;
		$seen{"next_poll_at: $what, polled $last, next $next, not " . due($c)}++ if abs($next - due($c)) > 1e-5;
		$seen{"tier: $what, $tier"}++ if $tier != tier_at($c, $age + $c->{born});
		push @polled, $c;
	}
	$seen{'others: ' . $json->encode(\%asked)}++ if %asked;
	return @polled;
}

# Has it just been sent? Who is no member any more at Mailchimp is missing in its segment, and it takes minutes until that is certain.
sub begins
{
	my ($c) = @_;
	(my $status, @$c{qw(mailchimp_id sent born)}) = split /\|/, $db->query("SELECT status, mailchimp_id, " . seconds('sent_at') . ', '
		. seconds('greatest(created_at, sent_at)') . " FROM mc_campaign WHERE campaign_id = $c->{id}");
	return 0 if $status eq 'preparing';
	is($status, 'sent', "$c->{name} is sent");
	$c->{tiers} = [ tiers($c->{born}) ];
	$c->{last} = $c->{wanted} = $c->{compared} = $c->{born};
	$c->{emails} = [ sort map { $_->{email} } @{ $sim->get('/_sim/mails', campaign => $c->{mailchimp_id})->{mails} } ];
	$db->query("INSERT INTO month.person SELECT $c->{id}, email, id FROM crm.candidate WHERE email = ANY (" . literal('{' . join(',', @{ $c->{emails} }) . '}') . ')');
	engage($c);
	return 1;
}

sub iso_seconds { my ($text) = @_; my ($y, $m, $d, $H, $M, $S) = $text =~ /\d+/g; return timegm($S, $M, $H, $d, $m - 1, $y) }
sub age { my ($s) = @_; return sprintf '%d d %02d:%02d:%02d', $s / 86400, $s / 3600 % 24, $s / 60 % 60, $s % 60 }

# ---- what is known afterwards

my $different = '';

# Somebody may have done something while it was asked (false); then there is nothing to compare, nor where nobody has done
# anything since the last time.
sub compare
{
	my ($c, $always) = @_;
	my $asked = $c->{asked};
	return 0 if grep { $_ >= $asked && $_ <= $c->{last} + 1 } @{ $c->{instants} };
	return 1 unless $always || grep { $_ > $c->{compared} && $_ < $asked } @{ $c->{instants} };
	$c->{compared} = $asked;
	my $truth = $sim->{http}->get($sim->url . "/_sim/truth/$c->{mailchimp_id}?at=" . (stamp($asked) =~ s/\+/%2B/r))->{content};
	my $found = $db->query("SELECT * FROM month.compare($c->{id}, '" . stamp($asked) . "', " . literal($truth) . ')');
	$different .= "$c->{name}, " . age($asked - $c->{born}) . ":\n$found\n" if $found ne '';
	return 1;
}

# All campaigns are asked, and everything is compared.
sub look_at_all
{
	my ($when) = @_;
	my @sent = grep { $_->{sent} } values %campaigns;
	my %left = map { $_->{id} => $_ } @sent;

	McTest::poll('a moment in which nobody does anything', sub {
		for my $c (values %left)
		{
			$c->{wanted} = now();
			$db->query("SET ROLE max; SELECT mc_poll_campaign($c->{id}); RESET ROLE");
		}
		compare($_, 1) && delete $left{ $_->{id} } for run();
		return !%left;
	});
	my $group = $db->query('SELECT * FROM month.compare_group(' . literal($json->encode({ map { $_->{id} => stamp($_->{asked}) } @sent })) . ')');
	is($different . $group, '', "$when: figures, lists and statuses are as they must be");
	is(join("\n", sort keys %seen), '', "$when: each campaign was asked when it was due");
	($different, %seen) = ('');
}

# ---- the story

# Three campaigns, hours and days apart; what is to happen, and when, in seconds since the first.
sub month
{
	my ($seed) = @_;
	my (@plan, $start, %erased);
	my @keys = shuffle 1 .. $people;
	my $some = sub { return join ',', splice @keys, 0, $_[0] };
	my $as = sub { my ($role, $sql) = @_; $db->query("SET ROLE $role; $sql; RESET ROLE") };

	my $send = sub {
		my ($name, $keys) = @_;
		my $id = $as->('max', "SELECT mc_create_campaign('$name', 'people', 'Newsletter', 'Max', 'max\@example.org')");
		$as->('max', "SELECT mc_add_recipients($id, 'candidate', '{$keys}'); SELECT mc_send_campaign($id)");
		$campaigns{$name} = { name => $name, id => $id, end => $start + $days * $day };
	};
	my $erase = sub {
		my ($keys) = @_;
		look_at_all("before $keys are erased");
		$db->query("INSERT INTO month.erased SELECT $_->{id}, email, '" . stamp($_->{asked}) . "' FROM month.person
			WHERE campaign_id = $_->{id} AND contact_key IN ('" . join("','", split /,/, $keys) . "')") for grep { $_->{sent} } values %campaigns;
		$as->('ann', "SELECT mc_erase_contact('candidate', k) FROM unnest('{$keys}'::bigint[]) k");
	};
	my $change = sub { my ($keys) = @_; $as->('ann', "UPDATE crm.candidate SET email = 'new' || email WHERE id IN ($keys)") };
	my ($moved, $left, $back) = ($some->(6), $some->(4), $some->(2));
	my ($erased_moved) = split /,/, $moved;
	my $erased = join ',', $erased_moved, $some->(2);

	$start = now();
	$send->('First', join ',', 1 .. $people);
	run();
	my $first = $campaigns{First};
	push @plan, map { my $bound = $_->[0]; map { [ $_, sub { $first->{wanted} = now(); $as->('max', "SELECT mc_poll_campaign($first->{id})") } ] } $bound - 30, $bound }
	  @{ $first->{tiers} }[ 1 .. 5 ];
	push @plan, map { [ $start + $_->[0], $_->[1] ] }
	  [ 2 * $hour + 2400, sub { $change->($moved) } ],
	  [ 3.4 * $hour, sub { $as->('ann', "UPDATE crm.candidate SET active = false WHERE id IN ($left,$back)") } ],
	  [ 5.2 * $hour, sub { $send->('Second', join ',', 1 .. 60) } ],
	  [ 30 * $hour, sub { $erase->($erased) } ],
	  [ 6.3 * $day, sub { $as->('ann', "UPDATE crm.candidate SET active = true WHERE id IN ($back)") } ],
	  [ 6.4 * $day, sub { $as->('ann', "DELETE FROM crm.candidate WHERE id IN ($left)") } ],
	  [ 10.1 * $day, sub { $send->('Third', join ',', 31 .. $people) } ],
	  [ 10.5 * $day, sub { $change->($some->(5)) } ],
	  [ 12 * $day, sub { look_at_all('after twelve days') } ],
	  [ 16 * $day, sub { $erase->($some->(2)) } ];
	@plan = sort { $a->[0] <=> $b->[0] } @plan;

	while (1)
	{
		my ($c) = sort { next_step($a) <=> next_step($b) } values %campaigns;
		my $at = next_step($c);
		if (@plan && $plan[0][0] <= $at)
		{
			move($plan[0][0]);
			(shift @plan)->[1]->();
			compare($_) for run();
			next;
		}
		last if $at > $start + $days * $day;
		# the first of a tier
		if ($c->{name} eq 'First' && $c->{sent} && !$c->{polls}{ tier_at($c, $at) })
		{
			move($at - 20);
			compare($_) for run();
		}
		move($at);
		compare($_) for run();
	}
	look_at_all('at the end');
	is(join(' ', grep { $first->{polls}{$_} } 1 .. 6), '1 2 3 4 5 6', 'the first was asked in every tier, on both sides of each bound');
}

for my $seed (split ' ', $ENV{MONTH_SEED} // '1')
{
	note "seed $seed";
	srand $seed;
	$crm = McCrm->start("month$seed", candidates => $people, audience => ", read_every => '10 years', every => '10 years'");
	(%campaigns, %seen) = ();
	($sim, $offset, $since) = ($crm->{sim}, 0, 0);
	$sim->post('/_sim/config', { count_seconds => 0, count_looks => 0 });
	$db = McModel::Session->new($crm->{node}, $crm->{node}->query('SELECT current_user'), first => 'SET client_min_messages = warning; SET timezone = UTC; SET jit = off');
	$db->query(slurp_file("$McTest::root/test/month/reference.sql"));
	$crm->sync;
	month($seed);
	note join ', ', map { my $c = $_; "$c->{name} " . join '+', map { $c->{polls}{$_} // 0 } 1 .. 6 } sort { $a->{id} <=> $b->{id} } values %campaigns;
	$crm->{node}->stop;
}
done_testing();
